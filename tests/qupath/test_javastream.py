"""The stream grammar: whatever is written reads back the same, and nothing hostile gets through."""

from __future__ import annotations

import gc
import inspect
import struct
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.workspaces.qupath.javastream import (
    Block,
    ClassDesc,
    Field,
    JavaArray,
    JavaClass,
    JavaEnum,
    JavaObject,
    JavaString,
    Packable,
    Part,
    StreamError,
    TooManyNodesError,
    decode_text,
    encode_text,
    packing,
    read_stream,
    same_content,
    write_stream,
)
from mxbridge.workspaces.qupath.javastream.nodes import MAGIC
from mxbridge.workspaces.qupath.javastream.pack import with_data

few = settings(deadline=None, max_examples=60)


def class_desc(name="a.B", flags=0x02, fields=(), base=None, uid=1) -> ClassDesc:
    desc = ClassDesc(name, uid, flags)
    desc.complete(tuple(fields), [], base)
    return desc


def class_bytes(name=b"a.B", flags=0x02, count=0, fields=b"", tail=b"\x78\x70") -> bytes:
    """A class descriptor by hand: no annotations and no superclass unless ``tail`` says so."""
    return b"\x72" + struct.pack(">H", len(name)) + name + struct.pack(">qBH", 1, flags, count) + fields + tail


def refused(data: bytes, words: str) -> StreamError:
    with pytest.raises(StreamError, match=words) as caught:
        read_stream(MAGIC + data)
    assert caught.value.position is not None
    assert 0 <= caught.value.position <= len(MAGIC + data)
    return caught.value


# text


@few
@given(st.text())
def test_modified_utf8_round_trip(text):
    raw = encode_text(text)
    assert 0 not in raw  # NUL has two bytes
    assert not any(byte >= 0xF0 for byte in raw)  # no four-byte forms
    assert decode_text(raw) == text


def test_modified_utf8_is_not_utf8():
    assert encode_text("\0") == b"\xc0\x80"
    assert encode_text("𝄞") == b"\xed\xa0\xb4\xed\xb4\x9e"
    assert decode_text(b"\xed\xa0\xb4") == "\ud834"
    assert encode_text("\ud834") == b"\xed\xa0\xb4"


@pytest.mark.parametrize("raw", [b"\xc3", b"\xe2\x82", b"\xc3\x28", b"\x80", b"\xf0\x9f\x98\x80", b"\xff"])
def test_bad_modified_utf8_is_refused(raw):
    with pytest.raises(ValueError, match="modified UTF-8"):
        decode_text(raw)
    refused(b"\x74" + struct.pack(">H", len(raw)) + raw, "modified UTF-8")


def test_class_names_must_be_canonical():
    refused(b"\x73" + class_bytes(name=b"a\xc1\x81"), "modified UTF-8")  # an overlong 'A'


# trees

text_nodes = st.builds(lambda text, form: JavaString(encode_text(text), form), st.text(max_size=8), st.booleans())
blocks = st.builds(Block, st.binary(max_size=300), st.booleans())
leaves = st.one_of(st.none(), text_nodes, blocks)


@st.composite
def trees(draw):
    """Items of every kind, many of them used again further on."""
    number = class_desc("n.Number")
    integer = class_desc("n.Integer", fields=[Field("I", "value")], base=number)
    holder = class_desc(
        "n.Holder",
        0x03,
        [Field("D", "d"), Field("L", "o", JavaString.of("Ln/X;")), Field("[", "f", JavaString.of("[F"))],
    )
    external = class_desc("n.External", 0x0C)
    floats, objects = class_desc("[F"), class_desc("[Ljava.lang.Object;")
    enum = class_desc("n.Kind", 0x12, base=class_desc("java.lang.Enum", 0x12, uid=0), uid=0)
    made = [draw(leaves) for _ in range(draw(st.integers(1, 4)))]
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.integers(0, 6))
        pick = st.sampled_from(made)
        if kind == 0:
            raw = draw(st.binary(min_size=4, max_size=4))
            made.append(JavaObject(integer, [Part(number, [], None), Part(integer, [raw], None)]))
        elif kind == 1:
            array = JavaArray(floats, draw(st.binary(min_size=8, max_size=8)))
            other = draw(pick)
            values = [draw(st.binary(min_size=8, max_size=8)), None if isinstance(other, Block) else other, array]
            made.append(JavaObject(holder, [Part(holder, values, draw(st.lists(pick, max_size=3)))]))
        elif kind == 2:
            made.append(JavaObject(external, [Part(external, None, draw(st.lists(pick, max_size=4)))]))
        elif kind == 3:
            made.append(JavaArray(objects, [i for i in draw(st.lists(pick, max_size=4)) if not isinstance(i, Block)]))
        elif kind == 4:
            made.append(JavaEnum(enum, JavaString.of(draw(st.text(max_size=3)))))
        elif kind == 5:
            made.append(JavaClass(draw(st.sampled_from([integer, floats]))))
        else:
            made.append(draw(leaves))
    return made


@few
@given(trees())
def test_any_tree_reads_back_the_same(items):
    data = write_stream(items)
    again = read_stream(data)
    assert write_stream(again.items) == data
    assert same_content(items, again.items)


@few
@given(trees(), st.data())
def test_a_cut_stream_is_never_taken_for_a_whole_one(items, choice):
    data = write_stream(items)
    cut = choice.draw(st.integers(0, len(data) - 1))
    try:
        found = read_stream(data[:cut]).items
    except StreamError:
        return
    assert len(found) < len(items)  # cut between two top-level items: fewer of them


def test_shared_nodes_are_written_once_and_stay_shared():
    text = JavaString.of("twice")
    data = write_stream([text, text, JavaString.of("twice")])
    assert data.count(b"twice") == 2
    first, second, third = read_stream(data).items
    assert first is second
    assert third is not first


def test_same_content_sees_every_difference():
    def tree(value=b"\0\0\0\1", text="t", shared=True, block=b"x", extra=(), name="n.I"):
        desc = class_desc(name, 0x03, [Field("I", "value"), Field("L", "s", JavaString.of("Ls;"))])
        label = JavaString.of(text)
        one = JavaObject(desc, [Part(desc, [value, label], [Block(block), *extra])])
        return [one, label if shared else JavaString.of(text)]

    assert same_content(tree(), tree())
    for other in (
        tree(value=b"\0\0\0\2"),
        tree(text="u"),
        tree(shared=False),
        tree(block=b"y"),
        tree(extra=[None]),
        tree(name="n.J"),
        tree()[:1],
    ):
        assert not same_content(tree(), other)
        assert not same_content(other, tree())


def test_a_cycle_is_read_written_and_compared():
    desc = class_desc("n.Node", fields=[Field("L", "next", JavaString.of("Ln/Node;"))])
    node = JavaObject(desc, [Part(desc, [None], None)])
    node.put("next", node)
    data = write_stream([node])
    (again,) = read_stream(data).items
    assert again.get("next") is again
    assert same_content([node], [again])


def test_long_blocks_and_strings_keep_their_form():
    items = [Block(b"x" * 256), Block(b"x", True), JavaString(b"y" * 65536), JavaString(b"y", True)]
    data = write_stream(items)
    again = read_stream(data)
    assert write_stream(again.items) == data
    assert again.items[1].long_form
    assert again.items[3].long_form


def test_every_nan_survives():
    desc = class_desc("n.F", fields=[Field("F", "value"), Field("D", "wide")])
    signalling = [b"\x7f\x80\x00\x01", b"\x7f\xf0\x00\x00\x00\x00\x00\x01"]
    data = write_stream([JavaObject(desc, [Part(desc, signalling, None)])])
    assert write_stream(read_stream(data).items) == data
    assert read_stream(data).items[0].parts[0].values == signalling


def test_fields_are_found_by_name_and_missing_ones_said():
    desc = class_desc("n.P", fields=[Field("Z", "on"), Field("L", "s", JavaString.of("Ls;"))])
    node = JavaObject(desc, [Part(desc, [b"\1", JavaString.of("text")], None)])
    assert node.number("on") is True
    assert node.get("s").text == "text"
    for ask in (lambda: node.get("on"), lambda: node.number("s"), lambda: node.get("x"), lambda: node.annotations):
        with pytest.raises(StreamError, match=r"n\.P"):
            ask()


def test_garbage_collection_is_on_again_after_reading():
    assert gc.isenabled()
    read_stream(write_stream([None]))
    with pytest.raises(StreamError):
        read_stream(MAGIC + b"\x99")
    assert gc.isenabled()


# limits


def test_not_java():
    with pytest.raises(StreamError, match="not a Java object stream"):
        read_stream(b"PK\3\4")


@pytest.mark.parametrize(("tag", "words"), [(0x79, "reset"), (0x7B, "exception"), (0x7D, "proxy")])
def test_reset_exception_and_proxy_are_refused(tag, words):
    refused(bytes([tag]), words)
    refused(b"\x73" + bytes([tag]), words)  # where a class is expected


def test_unknown_tags_are_refused():
    for tag in (0x00, 0x6F, 0x7F, 0xFF):
        refused(bytes([tag]), "unknown kind")


@pytest.mark.parametrize("handle", [0x7E0000, 0x7DFFFF, 0x7E0005, -1, 0x7FFFFFFF])
def test_back_references_must_exist(handle):
    refused(b"\x71" + struct.pack(">i", handle), "does not exist")


def test_a_back_reference_must_be_of_the_expected_kind():
    text = b"\x74\0\1x"
    refused(text + b"\x73\x71\0\x7e\0\0", "should be a class")  # an object whose class is a string
    refused(
        text + b"\x73" + class_bytes(tail=b"\x78\x71\0\x7e\0\0"), "should be a class"
    )  # ... whose superclass is one
    field = b"L\0\1s\x71" + struct.pack(">i", 0x7E0000)  # a type that is the class itself
    refused(b"\x73" + class_bytes(count=1, fields=field), "without a type")
    refused(b"\x7e" + class_bytes(flags=0x12) + b"\x70", "without a name")


def test_a_class_cannot_be_above_itself():
    refused(b"\x73" + class_bytes(tail=b"\x78\x71\0\x7e\0\0"), "should be a class")


def test_a_class_may_have_twenty_classes_above_it():
    def chain(levels):
        desc = None
        for k in range(levels):
            desc = class_desc(f"c{k}", base=desc)
        return write_stream([JavaObject(desc, [Part(c, [], None) for c in desc.lineage])])

    assert read_stream(chain(21)).items[0].desc.name == "c20"
    with pytest.raises(StreamError, match="20 classes above"):
        read_stream(chain(22))


def test_a_class_may_have_a_thousand_fields():
    def wide(count):
        return b"\x73" + class_bytes(count=count, fields=b"B\0\1b" * count) + b"\0" * count

    assert len(read_stream(MAGIC + wide(1000)).items[0].desc.fields) == 1000
    refused(wide(1001), "1001 fields")


@pytest.mark.parametrize("flags", [0x20, 0x80, 0x06])
def test_unknown_or_contradictory_class_flags_are_refused(flags):
    refused(b"\x73" + class_bytes(flags=flags), "unknown flags")


def test_externalizable_data_without_blocks_is_refused():
    refused(b"\x73" + class_bytes(flags=0x04), "protocol 1")


@pytest.mark.parametrize("length", [-1, -5, 2**31 - 1, 65])
def test_array_lengths_must_fit(length):
    for name in (b"[F", b"[B", b"[Ljava.lang.Object;"):
        refused(b"\x75" + class_bytes(name) + struct.pack(">i", length) + b"p" * 64 if length != 65 or name != b"[F" else
                b"\x75" + class_bytes(name) + struct.pack(">i", 17) + b"p" * 64, "length|hold")  # fmt: skip


def test_string_and_block_lengths_must_fit():
    refused(b"\x74\xff\xffabc", "only 3 follow")
    refused(b"\x7c" + struct.pack(">q", 2**62) + b"abc", "only 3 follow")
    refused(b"\x7c" + struct.pack(">q", -1) + b"abc", "length of -1")
    refused(b"\x77\x05abc", "only 3 follow")
    refused(b"\x7a" + struct.pack(">i", -1) + b"abc", "length of -1")


def test_an_array_needs_an_array_class():
    refused(b"\x75" + class_bytes(b"a.B") + b"\0\0\0\0", "no array class")


def test_nesting_is_counted():
    desc = class_desc("[Ljava.lang.Object;")

    def nested(levels):
        node = JavaArray(desc, [])
        for _ in range(levels - 1):
            node = JavaArray(desc, [node])
        return write_stream([node])

    assert read_stream(nested(199)).items  # the class descriptor of the innermost is one level more
    with pytest.raises(StreamError, match="deeper than 200"):
        read_stream(nested(201))


NESTED = {
    "arrays": (class_bytes(b"[[I") + b"\0\0\0\1", b"\x75\x71\0\x7e\0\0\0\0\0\1", b"\x75"),
    "annotations of objects": (class_bytes(flags=0x0C), b"\x73\x71\0\x7e\0\0", b"\x73"),
    "fields": (class_bytes(count=1, fields=b"L\0\1f\x74\0\1s"), b"\x73\x71\0\x7e\0\0", b"\x73"),
    "annotations of classes": (b"", class_bytes(tail=b""), b"\x73"),
    "classes above classes": (b"", class_bytes(tail=b"\x78"), b"\x73"),
    "types of fields": (b"", class_bytes(count=1, fields=b"L\0\1f", tail=b""), b"\x73"),
    "enum constants": (class_bytes(flags=0x12), b"\x7e\x71\0\x7e\0\0", b"\x7e"),
    "classes of class literals": (b"", b"\x76", b"\x76"),
}


@pytest.mark.parametrize("what", NESTED)
def test_no_kind_of_nesting_exhausts_the_stack(what):
    """Far fewer calls than Python's limit of 1000, so that there is room for whoever calls the reader."""
    first, level, tag = NESTED[what]
    depth, limit = len(inspect.stack(0)), sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 650)
    try:
        refused(tag + first + level * 5000, "nested|without|no class|above")
    finally:
        sys.setrecursionlimit(limit)


def test_deep_nesting_is_refused_at_once():
    started = time.process_time()
    refused(b"\x75" + class_bytes(b"[[I") + b"\0\0\0\1" + b"\x75\x71\0\x7e\0\0\0\0\0\1" * 100_000, "deeper than 200")
    assert time.process_time() - started < 1


# many objects of one shape, kept as bytes


def many_leaves(count: int, texts: list[JavaString] | None = None) -> JavaObject:
    """An object that wrote many others: each a text, a shared text, a number, and an array of as many numbers."""
    holder, leaf = class_desc("a.Holder", 0x0C), class_desc("a.Leaf", 0x0C)
    numbers, shared = class_desc("[I"), JavaString.of("shared")
    written = [
        JavaObject(
            leaf,
            [
                Part(
                    leaf,
                    None,
                    [
                        texts[k] if texts else JavaString.of(f"text {k}"),
                        shared,
                        Block(struct.pack(">d", k)),
                        JavaArray(numbers, struct.pack(f">{k % 5}i", *range(k % 5))),
                        None,
                    ],
                )
            ],
        )
        for k in range(count)
    ]
    return JavaObject(holder, [Part(holder, None, written)])


def packable(fits: bool = True) -> Packable:
    return Packable(("a.Leaf",), lambda _: fits)


@few
@given(st.integers(0, 60), st.integers(0, 12))
def test_packed_objects_are_written_as_they_were(count, texts):
    """Texts that several objects share lead into one of them, which becomes a node again."""
    shared = [JavaString.of(f"text {k}") for k in range(texts)]
    raw = write_stream([many_leaves(count, [shared[k % texts] for k in range(count)] if texts else None)])
    packed, nodes = read_stream(raw, packable()), read_stream(raw)
    kept = sum(len(rows) for rows in packed.pack.parts)
    assert kept == max(0, count - 3) if not texts else kept <= count
    assert write_stream(packed.items) == raw
    assert same_content(packed.items, nodes.items)
    assert same_content(nodes.items, packed.items)
    assert not read_stream(raw, packable(fits=False)).pack.parts


def test_what_is_put_into_packed_objects_is_written_compared_and_unpacked():
    raw = write_stream([many_leaves(40)])
    packed, nodes = read_stream(raw, packable()), read_stream(raw)
    pack, numbers, new = packed.pack, class_desc("[I"), JavaString.of("new")
    rows = np.arange(2, len(pack), 3)
    kind = class_desc(
        "a.Pair", fields=[Field("L", "name", JavaString.of("Ltext;")), Field("[", "x", JavaString.of("[I"))]
    )
    pair = JavaObject(kind, [Part(kind, [new, JavaArray(numbers, bytes(8))], None)])
    values = np.arange(8 * len(rows), dtype=np.uint8).reshape(-1, 8)
    pack.replace(4, rows, pair, values)
    pack.replace(1, rows[:4], new)
    pack.replace(1, rows[2:6], None)
    (holder,) = nodes.items
    for row, value in zip(rows.tolist(), values, strict=True):
        holder.annotations[row + 3].annotations[4] = with_data(pair, value.tobytes())
    for row in rows[:4].tolist():
        holder.annotations[row + 3].annotations[1] = new
    for row in rows[2:6].tolist():
        holder.annotations[row + 3].annotations[1] = None
    data = write_stream(nodes.items)
    assert write_stream(packed.items) == data
    assert same_content(packed.items, read_stream(data, packable()).items)
    assert same_content(packed.items, read_stream(data).items)
    assert not same_content(packed.items, read_stream(raw, packable()).items)
    for at in range(len(MAGIC), len(data), 7):  # nothing else is taken for it
        wrong = bytearray(data)
        wrong[at] ^= 1
        try:
            other = read_stream(bytes(wrong), packable())
        except StreamError:
            continue
        assert not same_content(packed.items, other.items)
    pack.release({row: pack.node(row) for row in range(len(pack))})
    assert not pack.parts
    assert write_stream(packed.items) == data


def test_an_object_packed_by_a_lying_length_is_refused():
    """The fourth and later objects are never read item by item, yet every length in them is checked."""
    raw = write_stream([many_leaves(12)])
    at = raw.rindex(struct.pack(">i", 4) + struct.pack(">4i", *range(4)))
    for lie in (-1, 5, 1 << 20, 0x7FFFFFFF):
        with pytest.raises(StreamError):
            read_stream(raw[:at] + struct.pack(">i", lie) + raw[at + 4 :], packable())
    with pytest.raises(StreamError):
        read_stream(raw.replace(b"text 11", b"text \xff1"), packable())


def test_more_nodes_than_there_is_room_for():
    raw = write_stream([many_leaves(100)])
    assert len(read_stream(raw, packable(), 40).pack) == 97
    with pytest.raises(TooManyNodesError) as caught:
        read_stream(raw, None, 40)
    assert caught.value.nodes == 40


def test_shapes_are_no_longer_tried_where_that_is_in_vain(monkeypatch):
    """Or a file of objects that begin alike and end differently would be gone through again and again."""
    tree = many_leaves(30)
    for leaf in tree.annotations[10:20]:
        leaf.annotations.append(JavaString.of("no end"))
    raw = write_stream([tree])
    before = read_stream(raw, packable())
    assert [len(rows) for rows in before.pack.parts] == [7, 18]  # the two others of those showed that they have a shape
    monkeypatch.setattr(packing, "_MOST_VAIN", 0)
    after = read_stream(raw, packable())
    assert [len(rows) for rows in after.pack.parts] == [7]
    assert write_stream(after.items) == write_stream(before.items) == raw
