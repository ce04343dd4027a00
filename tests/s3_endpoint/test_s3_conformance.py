"""Every server answers as S3 does, or as the table of deviations says: the same cases, with boto3 as the client.

Our model has no row in that table and must never get one: it is what stands in for S3.
"""

from __future__ import annotations

from contextlib import closing

import pytest
from servers.s3_cases import CASES, Bench, Case, new_key
from servers.s3_deviations import AREAS, DEVIATIONS

RUNS = [(server, case) for server, areas in AREAS.items() for case in CASES if case.area in areas]


@pytest.mark.real
@pytest.mark.parametrize(("server", "case"), RUNS, ids=[f"{server}-{case.name}" for server, case in RUNS])
def test_servers_respond_as_s3_does_or_as_listed_in_the_table_of_deviations(
    server: str, case: Case, request: pytest.FixtureRequest
) -> None:
    endpoint = request.getfixturevalue(f"{server}_endpoint")
    expected, reason = DEVIATIONS.get((server, case.name), (case.expected, "as S3 does"))
    with closing(endpoint.client()) as client:
        assert case.run(Bench(endpoint, client, new_key())) == expected, reason


def test_the_table_of_deviations_names_only_cases_that_run() -> None:
    assert set(DEVIATIONS) <= {(server, case.name) for server, case in RUNS}


def test_our_model_never_deviates() -> None:
    assert not [row for row in DEVIATIONS if row[0] in ("memory", "disk")]
