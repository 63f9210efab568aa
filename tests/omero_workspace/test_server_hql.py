"""Questions in HQL that the test server answers as Hibernate and Postgres would, or refuses as they would."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.omero_server.running import RunningServer
from tests.omero_workspace import omero_client as client

pytestmark = pytest.mark.omero


@pytest.fixture
def conn(server: RunningServer) -> Iterator[Any]:
    """A gateway on a server with images a, b (dataset one), c (dataset two), annotated x, x, y; c has no annotation."""
    for name, dataset in (("a", "one"), ("b", "one"), ("c", "two")):
        server.add_image(name, np.zeros((2, 4, 4), np.uint8), dataset=dataset, channels=["DAPI", ""])
    with client.logged_in(server.host, server.port) as found:
        for image, ns in ((1, "x"), (2, "x"), (2, "y")):
            client.save(found, client.link(client.image(image), client.map_annotation(ns, key=f"{image}{ns}")))
        yield found


@pytest.mark.parametrize(
    ("hql", "expected"),
    [
        ("select i.name from Image i where i.name in ('a', 'c') order by i.name desc", [["c"], ["a"]]),
        ("select i.name from Image i where not i.name = 'a' order by i.name", [["b"], ["c"]]),
        ("select i.name from Image i where not i.description = 'x'", []),  # null is neither equal nor unequal
        ("select count(*) from Image i where i.description is null", [[3]]),
        ("select i.name from Image i where i.id between 2 and 3 order by i.id", [["b"], ["c"]]),
        ("select d.name, count(l.id) from Dataset d join d.imageLinks l group by d.name order by d.name", [["one", 2], ["two", 1]]),
        ("select d.name from Dataset d join d.imageLinks l group by d.name having count(l.id) > 1", [["one"]]),
        ("select distinct a.ns from MapAnnotation a order by a.ns", [["x"], ["y"]]),
        ("select count(distinct a.ns) from MapAnnotation a", [[2]]),
        ("select max(i.id), min(i.id) from Image i", [[3, 1]]),
        ("select max(i.id) from Image i where i.id > 99", [[None]]),
        ("select i.name from Image i where exists (select l.id from ImageAnnotationLink l where l.parent.id = i.id) order by i.id", [["a"], ["b"]]),
        ("select i.name from Image i where i.id not in (select l.parent.id from ImageAnnotationLink l)", [["c"]]),
        ("select i.name from Image i where i.annotationLinks is empty", [["c"]]),
        ("select i.name, size(i.annotationLinks) from Image i order by i.id", [["a", 1], ["b", 2], ["c", 0]]),
        ("select i.name, a.ns from Image i left outer join i.annotationLinks l left outer join l.child a order by i.id, a.ns", [["a", "x"], ["b", "x"], ["b", "y"], ["c", None]]),
        ("select i.name from Image i join i.annotationLinks l with l.child.id > 2", [["b"]]),
        ("select mv.name, mv.value from MapAnnotation a join a.mapValue mv where a.ns = 'y'", [["key", "2y"]]),
        ("select i.name from Image i where i.name like '_' and upper(i.name) = 'B'", [["b"]]),
        ("select case when i.id > 1 then 'late' else 'early' end from Image i order by i.id", [["early"], ["late"], ["late"]]),
        ("select coalesce(i.description, i.name) from Image i where i.id = 1", [["a"]]),
        ("select i.id + 10 * 2 from Image i where i.id = (select max(j.id) from Image j)", [[23]]),
        ("select index(c), lc.name from Pixels p join p.channels c join c.logicalChannel lc where p.image.id = 1 order by index(c)", [[0, "DAPI"], [1, None]]),
        ("select a.class from Annotation a where a.id = 1", [["MapAnnotation"]]),
        ("select i.details.owner.omeName, i.details.group.name from Image i where i.id = 1", [["alice", "lab"]]),
        ("select new map(i.id as id, i.name as name) from Image i where i.id = 1", [[{"id": 1, "name": "a"}]]),
    ],
)  # fmt: skip
def test_answers(conn: Any, hql: str, expected: list) -> None:
    assert client.rows(conn, hql) == expected


@pytest.mark.parametrize(
    "hql",
    [
        "select i.id, count(l.id) from Image i join i.annotationLinks l",
        "select distinct i.name from Image i order by i.id",
        "select i.annotationLinks.id from Image i",
        "select i.id from Image i where i.name = 5",
        "select i.id from Image i right join i.pixels p",
        "select soundex(i.name) from Image i",
        "select i.id from Image i where i.id = :missing",
        "select i.id from Image i order by",
        "select i.id from Image i)",
    ],
)
def test_refusals(conn: Any, hql: str) -> None:
    import omero

    with pytest.raises(omero.ApiUsageException):
        client.rows(conn, hql)


def test_lists_that_sql_cannot_take(conn: Any) -> None:
    import omero

    question = "select i.id from Image i where i.id in (:ids)"
    assert sorted(client.rows(conn, question, ids=list(range(2_000)))) == [[1], [2], [3]]
    for ids in ([], list(range(32_768))):
        with pytest.raises(omero.ApiUsageException):
            client.rows(conn, question, ids=ids)


def test_a_limit_counts_objects_when_collections_are_fetched(conn: Any) -> None:
    import omero.sys

    page = omero.sys.ParametersI().page(1, 2)
    query = conn.getQueryService()
    fetched = query.findAllByQuery(
        "select p from Pixels p join fetch p.channels order by p.id", page, client.ALL_GROUPS
    )
    assert [(one.id.val, len(one.copyChannels())) for one in fetched] == [(2, 2), (3, 2)]
    plain = query.projection(
        "select p.id, c.id from Pixels p join p.channels c order by p.id, c.id", page, client.ALL_GROUPS
    )
    assert [[value.val for value in line] for line in plain] == [[1, 2], [2, 3]]
