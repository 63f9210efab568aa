"""The script buttons: put where QuPath's menus find them, settings kept, nobody's work lost, taken out again."""

from __future__ import annotations

import base64
import importlib.metadata
import json
import os
import plistlib
import subprocess
import sys
import types
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxbridge.errors import OutputError, SourceError, UsageError
from mxbridge.workspaces.qupath.scripts import install as installing
from mxbridge.workspaces.qupath.scripts import sources
from mxbridge.workspaces.qupath.scripts.groovy_text import is_ours, literal, marked, settings_of, with_settings
from mxbridge.workspaces.qupath.scripts.install import Places, install_scripts, python_to_call, uninstall_scripts
from mxbridge.workspaces.qupath.scripts.user_folder import find_user_folder, told_by_windows

from .conftest import files_of

BUTTON = """// mxbridge 0.0.1, format 1. Written by: mxbridge qupath install-scripts
// --- settings ---
def python = 'python'              // the Python that has mxbridge
def shared = 'shared/Mxbridge.groovy'   // '{project}/mxbridge/groovy/Mxbridge.groovy' or an absolute path
def markers = []                   // e.g. ['CD3', 'CD8']; [] = all
def region = 'image'               // 'image' or 'selected' annotations
// --- end of settings ---

println python
"""
SHARED = "// mxbridge 0.0.1, format 1. Written by: mxbridge qupath install-scripts\nclass Mxbridge {}\n"

THIS_PYTHON = str(Path(sys.executable).absolute())
"""A link in a virtual environment, and it stays one."""

NASTY = [
    "C:\\Users\\jürgen\\new\\python.exe",
    '/opt/it\'s/"py"/python3 $HOME ${x}',
    "\\\\server\\share\\user\\Üb\\python.exe",
    "line\nbreak\ttab\r",
    "日本/𝄞/python",
    "C:\\u0041\\unicode",
    "",
]


@pytest.fixture(autouse=True)
def scripts(tmp_path, monkeypatch, request) -> Path | None:
    """Scripts that are known here, in place of those of the repository."""
    if "of_the_repository" in request.node.name:
        return None
    folder = tmp_path / "sources"
    (folder / "shared").mkdir(parents=True)
    (folder / "mxbridge_Score_cells.groovy").write_text(BUTTON, encoding="utf-8")
    (folder / "mxbridge_Check_stains.groovy").write_text(BUTTON.replace("println", "print"), encoding="utf-8")
    for name in ("Mxbridge", "Program"):
        (folder / "shared" / f"{name}.groovy").write_text(SHARED.replace("Mxbridge", name), encoding="utf-8")
    monkeypatch.setattr(sources, "FOLDERS", (tmp_path / "not there", folder))
    return folder


@pytest.fixture
def places(project) -> Places:
    return Places.of_project(project)


def score(places: Places) -> Path:
    return places.folder / "mxbridge_Score_cells.groovy"


def states(done) -> dict[str, str]:
    return {s.file.name: s.state for s in (done.scripts if hasattr(done, "scripts") else done)}


def test_installed_and_taken_out_again(project, places) -> None:
    before = files_of(project)
    done = install_scripts(places)
    assert set(states(done).values()) == {"new"}
    assert len(done.buttons) == 2
    text = score(places).read_text(encoding="ascii")
    told = {name: s.value for name, s in settings_of(text).items()}
    assert told == {
        "python": literal(THIS_PYTHON),
        "shared": "'{project}/mxbridge/groovy/Mxbridge.groovy'",
        "markers": "[]",
        "region": "'image'",
    }
    assert text.startswith(f"// mxbridge {importlib.metadata.version('mxbridge')}, format 1. Written by")
    assert "println python" in text
    assert places.shared == project / "mxbridge" / "groovy" / "Mxbridge.groovy"
    there = files_of(project)
    again = install_scripts(places)
    assert set(states(again).values()) == {"unchanged"}
    assert files_of(project) == there
    assert set(states(uninstall_scripts(places)).values()) == {"removed"}
    assert files_of(project) == before
    assert not (project / "mxbridge").exists()
    assert uninstall_scripts(places) == ()


def test_uninstalling_removes_no_folder_that_held_nothing_of_ours(places) -> None:
    install_scripts(places)
    for file in places.shared.parent.iterdir():  # somebody made room already
        file.unlink()
    assert set(states(uninstall_scripts(places)).values()) == {"removed"}
    assert places.shared.parent.is_dir()
    assert not places.folder.exists()


def test_settings_are_kept_and_the_rest_is_made_new(places, scripts) -> None:
    install_scripts(places)
    file = score(places)
    edited = file.read_text().replace("def markers = []", "def markers = ['CD3',   // this\n  \"CD8 // ]\"]  ")
    edited = edited.replace("def region = 'image'", "def region = 'selected'").replace("\n", "\r\n")
    edited = edited.replace("def python = '", "def python = '/elsewhere")
    file.write_bytes(edited.encode())
    newer = BUTTON.replace("println python", "println 'newer'").replace(
        "def region", "def model = 'Nimbus'   // new\ndef region"
    )
    (scripts / file.name).write_text(newer, encoding="utf-8")
    done = install_scripts(places)
    (told,) = (s for s in done.scripts if s.file == file)
    assert (told.state, told.kept, told.backup, done.warnings) == ("updated", ("markers", "region"), None, ())
    values = {name: s.value for name, s in settings_of(file.read_text(encoding="utf-8")).items()}
    assert values["region"] == "'selected'"
    assert values["markers"].replace("\r", "") == "['CD3',   // this\n  \"CD8 // ]\"]"
    assert values["model"] == "'Nimbus'"
    assert values["python"] == literal(THIS_PYTHON)
    assert "println 'newer'" in file.read_text(encoding="utf-8")
    assert set(states(install_scripts(places)).values()) == {"unchanged"}
    assert states(uninstall_scripts(places))[file.name] == "removed"


def test_an_edited_script_is_kept_beside(places) -> None:
    install_scripts(places)
    file = score(places)
    for number in (1, 2):
        mine = file.read_text().replace("println", f"/* mine {number} */ println").replace("'image'", "'selected'")
        file.write_text(mine, encoding="utf-8")
        done = install_scripts(places)
        (told,) = (s for s in done.scripts if s.file == file)
        assert told.backup is not None
        assert told.backup.read_text(encoding="utf-8") == mine
        assert any(str(told.backup) in warning for warning in done.warnings)
        assert "mine" not in file.read_text(encoding="utf-8")
        assert settings_of(file.read_text(encoding="utf-8"))["region"].value == "'selected'"
    assert len(list(places.folder.glob("*.mxbridge-backup*"))) == 2
    file.write_text(file.read_text() + "\nprintln 'more'\n", encoding="utf-8")
    left = {s.file.name: s.state for s in uninstall_scripts(places)}
    assert left == {
        file.name: "left",
        "mxbridge_Check_stains.groovy": "removed",
        "Mxbridge.groovy": "removed",
        "Program.groovy": "removed",
    }
    assert file.exists()


def test_a_script_of_somebody_else_is_not_ours(places) -> None:
    places.folder.mkdir()
    mine = places.folder / "mxbridge_Mine.groovy"
    mine.write_text("println 'mine'\n", encoding="utf-8")
    score(places).write_text("println 'also mine'\n", encoding="utf-8")
    done = install_scripts(places)
    (told,) = (s for s in done.scripts if s.file == score(places))
    assert told.backup is not None
    assert told.backup.read_text(encoding="utf-8") == "println 'also mine'\n"
    assert mine.name not in states(done)
    uninstall_scripts(places)
    assert mine.read_text(encoding="utf-8") == "println 'mine'\n"
    assert told.backup.exists()


def test_a_script_that_an_earlier_version_had_goes(places, scripts) -> None:
    install_scripts(places)
    (scripts / "mxbridge_Check_stains.groovy").unlink()
    (scripts / "shared" / "Program.groovy").unlink()
    (places.shared.parent / "Mine.groovy").write_text("class Mine {}", encoding="utf-8")
    done = {name for name, state in states(install_scripts(places)).items() if state == "removed"}
    assert done == {"mxbridge_Check_stains.groovy", "Program.groovy"}
    assert not (places.folder / "mxbridge_Check_stains.groovy").exists()
    assert sorted(p.name for p in places.shared.parent.iterdir()) == ["Mine.groovy", "Mxbridge.groovy"]


def test_a_copy_with_other_settings_is_the_users(places) -> None:
    install_scripts(places)
    copy = places.folder / "mxbridge_Score_my_panel.groovy"
    copy.write_text(score(places).read_text().replace("def markers = []", "def markers = ['CD3']"), encoding="utf-8")
    before = copy.read_bytes()
    assert copy.name not in states(install_scripts(places))
    assert states(uninstall_scripts(places))[copy.name] == "left"
    assert copy.read_bytes() == before


@pytest.mark.parametrize("name", ["scripts", "mxbridge", "scripts/mxbridge_Score_cells.groovy"])
def test_nothing_is_written_through_links(name, project, places, tmp_path) -> None:
    link = project / name
    link.parent.mkdir(exist_ok=True)
    target = tmp_path / "elsewhere"
    if link.suffix:
        target.write_text("mine", encoding="utf-8")
    else:
        target.mkdir()
    link.symlink_to(target)
    with pytest.raises(OutputError, match="symbolic link"):
        install_scripts(places)
    assert target.read_text(encoding="utf-8") == "mine" if target.is_file() else not list(target.iterdir())


def test_a_folder_that_cannot_be_written_to(project, places, monkeypatch) -> None:
    def refuse(*_args: object, **_more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match="no permission"):
        install_scripts(places)


def test_the_python_that_is_called(tmp_path, places) -> None:
    link = tmp_path / "venv" / "python3"
    link.parent.mkdir()
    link.symlink_to(sys.executable)
    assert python_to_call(link) == str(link)
    with pytest.raises(UsageError, match="does not exist"):
        python_to_call(tmp_path / "nobody")
    with pytest.raises(UsageError, match="is a folder"):
        python_to_call(tmp_path)
    for name in ("pythonw.exe", "python.exe"):
        (tmp_path / name).write_bytes(b"")
    assert python_to_call(tmp_path / "pythonw.exe") == str(tmp_path / "python.exe")
    bare = tmp_path / "bare"
    bare.write_text("#!/bin/sh\necho No module named mxbridge >&2\nexit 1\n", encoding="ascii")
    bare.chmod(0o755)
    (warning,) = install_scripts(places, bare).warnings
    assert "cannot import mxbridge (No module named mxbridge)" in warning
    bare.write_text("#!/bin/sh\nexec sleep 100\n", encoding="ascii")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(installing, "_PATIENCE", 0.2)
        (warning,) = install_scripts(places, bare).warnings
    assert "did not say within" in warning
    bare.chmod(0o644)
    (warning,) = install_scripts(places, bare).warnings
    assert "cannot be started" in warning


def test_places(project, tmp_path) -> None:
    with pytest.raises(SourceError, match="not a QuPath project"):
        Places.of_project(tmp_path)
    with pytest.raises(SourceError, match="not a folder"):
        Places.of_user(tmp_path / "nowhere")
    user, how = Places.of_user(tmp_path)
    assert how == "as given"
    assert user.named == str(tmp_path / "mxbridge" / "Mxbridge.groovy")
    install_scripts(user)
    assert settings_of(score(user).read_text())["shared"].value == literal(user.named)
    uninstall_scripts(user)
    assert not (tmp_path / "mxbridge").exists()
    assert not (tmp_path / "scripts").exists()


class TestUserFolder:
    """As Java keeps preferences; the Linux names are those that Java 17 gave these nodes."""

    LINUX = "_!'k!bw!u!'c!a@\"0!'g!d@\"i!#4!c@\"1!(!!}@\"0!'g="

    @staticmethod
    def xml(value: str) -> str:
        return (
            '<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n'
            '<!DOCTYPE map SYSTEM "http://java.sun.com/dtd/preferences.dtd">\n'
            f'<map MAP_XML_VERSION="1.0">\n  <entry key="other" value="x"/>\n  <entry key="userPath" value="{value}"/>\n</map>'
        )

    def linux(self, home: Path, **folders: str) -> None:
        for name, value in {"_!$!!.g!2": folders.get("six"), "_!$!!.g!3": folders.get("seven")}.items():
            if value is not None:
                node = home / ".java" / ".userPrefs" / self.LINUX / name
                node.mkdir(parents=True)
                (node / "prefs.xml").write_text(self.xml(value), encoding="utf-8")

    def test_linux(self, tmp_path) -> None:
        mine = tmp_path / "Mé & ich"
        mine.mkdir()
        self.linux(tmp_path, six=str(mine).replace("&", "&amp;"), seven=str(tmp_path / "gone"))
        folder, how = find_user_folder(home=tmp_path, platform="linux")
        assert (folder, how) == (mine, "QuPath 0.6 has it in its preferences")
        (tmp_path / "gone").mkdir()
        assert find_user_folder(home=tmp_path, platform="linux") == (
            tmp_path / "gone",
            "QuPath 0.7 has it in its preferences",
        )

    @pytest.mark.parametrize(
        "text", ["<map", "<!DOCTYPE x [<!ENTITY a 'b'>]><map><entry key='userPath' value='&a;'/></map>", ""]
    )
    def test_broken_preferences_say_nothing(self, text, tmp_path) -> None:
        self.linux(tmp_path, seven="x")
        (prefs,) = tmp_path.rglob("prefs.xml")
        prefs.write_text(text, encoding="utf-8")
        with pytest.raises(SourceError, match="no user folder"):
            find_user_folder(home=tmp_path, platform="linux")

    def test_the_usual_folder(self, tmp_path) -> None:
        with pytest.raises(SourceError, match="--user-dir"):
            find_user_folder(home=tmp_path, platform="linux")
        usual = tmp_path / "QuPath"
        usual.mkdir()
        assert find_user_folder(home=tmp_path, platform="linux")[0] == usual
        for name in ("v0.5", "v0.10", "v0.6", "versions"):
            (usual / name).mkdir()
        assert find_user_folder(home=tmp_path, platform="linux") == (usual / "v0.10", "where QuPath usually has it")

    def test_macos(self, tmp_path) -> None:
        path = tmp_path / "Library" / "Preferences" / "com.apple.java.util.prefs.plist"
        path.parent.mkdir(parents=True)
        nodes = {"0.6/": {"userPath": str(tmp_path)}, "0.7/": {"other": "x"}, "0.8/": 3}
        path.write_bytes(plistlib.dumps({"/": {"io.github.qupath/": nodes}}, fmt=plistlib.FMT_BINARY))
        assert find_user_folder(home=tmp_path, platform="darwin")[0] == tmp_path
        path.write_bytes(b"bplist00broken")
        with pytest.raises(SourceError):
            find_user_folder(home=tmp_path, platform="darwin")

    def test_windows(self, tmp_path, monkeypatch) -> None:
        class Key:
            def __init__(self, name: str) -> None:
                self.name = name

            def __enter__(self) -> Key:
                return self

            def __exit__(self, *_: object) -> None:
                return None

        def stored(text: str) -> str:
            return "".join({"\\": "//", "/": "\\"}.get(c, f"/{c}" if "A" <= c <= "Z" else c) for c in text)

        values = {"0.6": stored(str(tmp_path)), "0.7": stored("C:\\Users\\Me")}

        def open_key(above: object, name: str) -> Key:
            if isinstance(above, Key):
                return Key(name)
            assert name == "Software\\JavaSoft\\Prefs\\io.github.qupath"
            return Key("")

        def enum_key(_key: Key, number: int) -> str:
            if number >= len(values):
                raise OSError
            return list(values)[number]

        fake = types.ModuleType("winreg")
        fake.HKEY_CURRENT_USER = 1  # type: ignore[attr-defined]
        fake.OpenKey, fake.EnumKey = open_key, enum_key  # type: ignore[attr-defined]
        fake.QueryValueEx = lambda key, name: (values[key.name], 1) if name == "user/Path" else None  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "winreg", fake)
        assert find_user_folder(home=tmp_path, platform="win32")[0] == tmp_path
        assert told_by_windows("/C:///Users///J/u00fcrgen//x") == "C:\\Users\\Jürgen\\x"
        assert told_by_windows("\\home\\me") == "/home/me"


class TestCommands:
    def test_all_of_it(self, project, mxbridge) -> None:
        code, out, err = mxbridge("qupath", "install-scripts", "--project", project)
        assert (code, err) == (0, "")
        assert "Automate > Project scripts > mxbridge " in out
        code, out, _ = mxbridge("qupath", "install-scripts", "--project", project / "project.qpproj", "--json")
        document = json.loads(out)
        assert code == 0
        assert {s["state"] for s in document["scripts"]} == {"unchanged"}
        assert document["python"] == THIS_PYTHON
        code, out, _ = mxbridge("qupath", "uninstall-scripts", "--project", project)
        assert (code, out.count("removed: ")) == (0, 4)
        code, out, _ = mxbridge("qupath", "uninstall-scripts", "--project", project, "--json")
        assert (code, json.loads(out)["scripts"]) == (0, [])

    def test_wrong_use(self, project, mxbridge, tmp_path, monkeypatch) -> None:
        for arguments in ([], ["--project", project, "--user"], ["--project", project, "--user-dir", tmp_path]):
            code, _, err = mxbridge("qupath", "install-scripts", *arguments)
            assert (code, "once" in err) == (2, True)
        code, _, err = mxbridge("qupath", "install-scripts", "--project", tmp_path)
        assert (code, "not a QuPath project" in err) == (4, True)
        monkeypatch.setattr(Path, "home", classmethod(lambda _: tmp_path / "home"))
        code, _, err = mxbridge("qupath", "install-scripts", "--user")
        assert (code, "--user-dir" in err) == (4, True)

    def test_for_the_user(self, mxbridge, tmp_path, monkeypatch) -> None:
        folder = tmp_path / "home" / "QuPath" / "v0.6"
        folder.mkdir(parents=True)
        monkeypatch.setattr(Path, "home", classmethod(lambda _: tmp_path / "home"))
        monkeypatch.setattr(sys, "platform", "linux")
        code, out, err = mxbridge("qupath", "install-scripts", "--user")
        assert code == 0, err
        assert "Automate > User scripts > " in out
        assert (folder / "scripts" / "mxbridge_Score_cells.groovy").is_file()
        assert (folder / "mxbridge" / "Mxbridge.groovy").is_file()


def test_scripts_of_the_repository_have_settings_that_are_filled_in(project) -> None:
    found = sources.read_sources()
    assert set(found.buttons) == {
        f"mxbridge_{name}.groovy"
        for name in ("Score_cells", "Impute_a_stain", "Translate_IHC", "Check_stains", "Apply_results")
    }
    for text in found.buttons.values():
        assert {"python", "shared"} <= set(settings_of(text))
        assert text.startswith("// mxbridge ")
        assert ", format 1. Written by: mxbridge qupath install-scripts\n" in text
        text.encode("ascii")
    assert sources.SHARED_NAME in found.shared
    assert not any(settings_of(text) for text in found.shared.values())
    done = install_scripts(Places.of_project(project))
    assert len(done.buttons) == 5
    assert {p.name for p in done.places.shared.parent.iterdir()} == set(found.shared)
    assert all(is_ours(s.file.read_text(encoding="utf-8"), s.file.name) for s in done.scripts)


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=60))
def test_any_value_is_found_again(value) -> None:
    text = with_settings(BUTTON, {"markers": literal(value), "python": literal(value * 2)})
    told = settings_of(text)
    assert {name: told[name].value for name in ("markers", "python", "region")} == {
        "markers": literal(value),
        "python": literal(value * 2),
        "region": "'image'",
    }
    ours = marked(BUTTON, "a.groovy")
    assert is_ours(with_settings(ours, {"markers": literal(value)}), "a.groovy")
    assert not is_ours(ours, "b.groovy")
    assert not is_ours(ours.replace("println", "print"), "a.groovy")


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet="def =\n'\"/[](){}\\x,-", max_size=80))
def test_settings_that_are_no_groovy_end(text) -> None:
    begin, end = "// --- settings ---", "// --- end of settings ---"
    told = settings_of(f"{begin}\ndef a = {text}\n{end}\nrest")
    assert told["a"].end <= len(begin) + len(text) + 10
    assert settings_of(f"{end}{begin}") == {}


@pytest.mark.groovy
def test_groovy_reads_what_is_written(tmp_path) -> None:
    """In the Groovy of QuPath 0.6: every literal is the text that was meant."""
    jars = _groovy_jars()
    lines = [f"out << {literal(text)}.getBytes('UTF-16BE').encodeBase64().toString() << '\\n'" for text in NASTY]
    script = tmp_path / "literals.groovy"
    script.write_text("def out = new StringBuilder()\n" + "\n".join(lines) + "\nprint out\n", encoding="ascii")
    done = subprocess.run(
        ["java", "-cp", os.pathsep.join(map(str, jars)), "groovy.ui.GroovyMain", str(script)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [base64.b64decode(line).decode("utf-16-be") for line in done.stdout.split("\n")[:-1]] == NASTY


def _groovy_jars() -> list[Path]:
    repository = Path(__file__).resolve().parents[2]
    usual = repository / ".venv/groovy/package/lib/java/groovy/lib"
    folder = Path(os.environ.get("MXBRIDGE_TEST_GROOVY", usual))
    jars = sorted(folder.glob("*.jar")) if folder.is_dir() else []
    if not jars:
        pytest.skip("needs Groovy's jars (MXBRIDGE_TEST_GROOVY, or what make test fetches)")
    return jars
