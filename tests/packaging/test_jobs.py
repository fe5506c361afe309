"""Packaging jobs as records: one a request, whatever becomes of the process that runs it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Dict, List

import pytest

from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging import jobs as jobs_module
from edge_agent.packaging.jobs import Job, JobRequest, Jobs, is_alive, process_name, staging

HOUR = 3600.0


class Clock:
    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture(name="clock")
def _clock() -> Clock:
    return Clock()


@pytest.fixture(name="jobs")
def _jobs(tmp_path: Path, clock: Clock) -> Jobs:
    return Jobs(tmp_path / "jobs", clock)


def request(**changes: Any) -> JobRequest:
    values = {"project": "bolts", "model_version": "1", "digest": "0" * 64, **changes}
    return JobRequest(**{"configuration": configuration(), **values})


def configuration(**changes: Any) -> Dict[str, Any]:
    given = {"ComponentName": "plant.Bolts", "ComponentVersion": "1.0.0"}
    return {**given, "OutputFolder": "/none/out", **changes}


def as_run_by(name: str, jobs: Jobs, folder: Path, job: Job) -> None:
    """Make the record say that another process runs the job."""
    text = (folder / f"{job.name}.json").read_text()
    (folder / f"{job.name}.json").write_text(text.replace(process_name(), name))


def test_a_job_goes_through_its_states(jobs: Jobs, clock: Clock) -> None:
    job, is_new = jobs.create(request(), "job-1")
    assert (is_new, job.status, jobs.find("job-1")) == (True, "CREATED", job)
    clock.time += 1
    job = jobs.advance(job, "RUNNING")
    assert jobs.find("job-1").status == "RUNNING"
    clock.time += 1
    jobs.advance(job, "FAILED", "Because.")

    found = jobs.find("job-1")
    assert (found.status, found.message) == ("FAILED", "Because.")
    assert found.updated - found.created == 2


def test_a_job_without_a_name_gets_one_that_the_api_allows(jobs: Jobs) -> None:
    first, second = jobs.create(request())[0], jobs.create(request())[0]

    assert first.name != second.name
    assert {job.name for job in jobs.list()} == {first.name, second.name}


@pytest.mark.parametrize("name", ["a b", "../a", "a.b", "a" * 65])
def test_a_name_or_token_of_other_characters_is_refused(jobs: Jobs, name: str) -> None:
    with pytest.raises(InvalidConfiguration, match="name: string should match"):
        jobs.create(request(), name)
    with pytest.raises(InvalidConfiguration, match="token: string should match"):
        jobs.create(request(), token=name)
    assert jobs.list() == []


def test_a_name_is_taken_once(jobs: Jobs) -> None:
    jobs.create(request(), "job-1")

    with pytest.raises(InvalidConfiguration, match="job-1 already; choose another --job-name"):
        jobs.create(request(), "job-1")


def test_a_token_stands_for_its_job_for_8_hours(jobs: Jobs, clock: Clock) -> None:
    job, _ = jobs.create(request(), token="t-1")
    clock.time += 8 * HOUR - 1
    assert jobs.create(request(), token="t-1") == (job, False)
    clock.time += 1
    later, is_new = jobs.create(request(), token="t-1")

    assert is_new
    assert later.name != job.name
    assert jobs.create(request(), token="t-1") == (later, False)


def test_a_token_used_by_many_at_once_is_one_job(jobs: Jobs) -> None:
    together = threading.Barrier(8)
    made: List[str] = []

    def create_all() -> None:
        for number in range(10):
            together.wait(10)
            job, is_new = jobs.create(request(), token=f"t-{number}")
            if is_new:
                made.append(str(job.token))

    threads = [threading.Thread(target=create_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(made) == [f"t-{number}" for number in range(10)]


def test_a_token_also_stands_for_a_job_that_has_ended(jobs: Jobs) -> None:
    job = jobs.advance(jobs.create(request(), token="t-1")[0], "FAILED", "Because.")

    assert jobs.create(request(), token="t-1") == (job, False)


@pytest.mark.parametrize(
    "changes",
    [
        {"project": "nuts"},
        {"model_version": "2"},
        {"digest": "1" * 64},
        {"configuration": configuration(ComponentName="plant.Nuts")},
    ],
)
def test_a_token_with_other_parameters_is_refused(jobs: Jobs, changes: Dict[str, Any]) -> None:
    job, _ = jobs.create(request(), token="t-1")

    with pytest.raises(InvalidConfiguration, match=f"t-1 belongs to job {job.name}"):
        jobs.create(request(**changes), token="t-1")
    assert jobs.list() == [job]


def test_a_token_with_another_job_name_is_refused(jobs: Jobs) -> None:
    job, _ = jobs.create(request(), "job-1", "t-1")

    assert jobs.create(request(), "job-1", "t-1") == (job, False)
    with pytest.raises(InvalidConfiguration, match="other parameters"):
        jobs.create(request(), "job-2", "t-1")


def test_a_job_whose_process_has_ended_is_failed_and_leaves_nothing(
    jobs: Jobs, tmp_path: Path
) -> None:
    asked = request(configuration=configuration(OutputFolder=str(tmp_path / "out")))
    job = jobs.advance(jobs.create(asked)[0], "RUNNING")
    (staging(job) / "recipes").mkdir(parents=True)
    assert jobs.find(job.name).status == "RUNNING"
    gone = process_name().replace(f"{os.getpid()} ", f"{os.getpid()} 1")  # another start time
    as_run_by(gone, jobs, tmp_path / "jobs", job)

    found = jobs.find(job.name)
    assert (found.status, found.message) == ("FAILED", "The process that ran the job has ended.")
    assert [path.name for path in tmp_path.iterdir()] == ["jobs"]
    assert jobs.find(job.name) == found


def test_a_process_that_has_ended_is_not_alive_even_before_it_is_reaped() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    )
    name = jobs_module._name_of(str(child.pid))
    assert is_alive(name)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    assert not is_alive(name)
    child.communicate()
    assert not is_alive(name)
    assert is_alive(process_name())


def test_pages_follow_each_other_from_the_newest_on(jobs: Jobs, clock: Clock) -> None:
    for number in range(5):
        clock.time += 1
        jobs.create(request(), f"job-{number}")

    first, token = jobs.page(2)
    clock.time += 1
    jobs.create(request(), "job-5")  # in between; pages go on where they were
    second, token = jobs.page(2, token)
    third, end = jobs.page(2, token)

    names = [job.name for job in [*first, *second, *third]]
    assert names == ["job-4", "job-3", "job-2", "job-1", "job-0"]
    assert end == ""


@pytest.mark.parametrize("size", [0, 101])
def test_a_page_has_1_to_100_jobs(jobs: Jobs, size: int) -> None:
    with pytest.raises(InvalidConfiguration, match=f"1 to 100 jobs, not {size}"):
        jobs.page(size)


def test_a_token_of_no_page_is_refused(jobs: Jobs) -> None:
    jobs.create(request())

    with pytest.raises(InvalidConfiguration, match="list again from the start"):
        jobs.page(2, "bm9uZQ==")


def test_an_unknown_job_is_named_back(jobs: Jobs) -> None:
    with pytest.raises(InvalidConfiguration, match="no packaging job 'job-9' in"):
        jobs.find("job-9")


def test_a_file_that_is_no_job_is_left_out_with_a_warning(
    jobs: Jobs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job, _ = jobs.create(request())
    (tmp_path / "jobs" / "other.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        assert jobs.list() == [job]

    assert "other.json isn't a packaging job: name: field required" in caplog.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"OutputFolder": "/"}, "folder '/' can't be made; choose another --out"),
        ({"OutputFolder": "/none/.."}, "can't be made"),
        ({"GoldenImages": "/bad\udcff"}, "GoldenImages must be UTF-8, not '/bad"),
        ({"S3OutputLocation": {"Prefix": "bad\udcff"}}, "S3OutputLocation must be UTF-8"),
        ({"OutputFolder": None}, "OutputFolder must be there, as text"),
    ],
)
def test_a_request_that_can_not_be_kept_or_cleared_up_is_refused(
    jobs: Jobs, changes: Dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidConfiguration, match=words):
        jobs.create(request(configuration=configuration(**changes)))
    assert jobs.list() == []


@pytest.mark.parametrize(
    ("old", "new"),
    [('"OutputFolder"', '"Other"'), ('"ComponentVersion"', '"Other"'), ("/none/out", "/")],
)
def test_one_bad_record_does_not_stop_the_others(
    jobs: Jobs, tmp_path: Path, caplog: pytest.LogCaptureFixture, old: str, new: str
) -> None:
    bad, _ = jobs.create(request(), "bad")
    good, _ = jobs.create(request())
    as_run_by("1 1 another-start", jobs, tmp_path / "jobs", bad)
    record = tmp_path / "jobs" / "bad.json"
    record.write_text(record.read_text().replace(old, new))

    with caplog.at_level(logging.WARNING):
        assert jobs.list() == [good]
    assert "bad.json isn't a packaging job: request: " in caplog.text
    assert jobs.create(request(), "job-1")[1]


def test_a_message_may_name_a_file_whose_name_is_no_text(jobs: Jobs) -> None:
    job = jobs.advance(jobs.create(request(), "job-1")[0], "FAILED", "bad\udcff is missing.")

    assert job.message == jobs.find("job-1").message == "bad\\udcff is missing."


def test_a_folder_that_can_not_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(InvalidConfiguration, match="file/jobs can't be used: Not a directory"):
        Jobs(tmp_path / "file" / "jobs").list()
