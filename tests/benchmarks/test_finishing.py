"""The simulated finishing of a large build, on a small scale: it is like a build and stays within time and memory."""

from tests.benchmarks import finishing


def test_simulated_shards_finish_as_built_ones_do(tmp_path, monkeypatch):
    monkeypatch.setattr(finishing, "PER_SHARD", 500)
    monkeypatch.setattr(finishing.check, "_faults_of_pixels", finishing.check._faults_of_pixels)  # put back afterwards
    plan = finishing.simulate(tmp_path / "out", 2000)
    seconds = finishing.finish(plan, 2)
    seconds["check"] = finishing.accounting(plan)
    assert set(seconds) >= {"read hashes", "find duplicates", "write shards", "write manifest"}
    outcomes, problems = finishing.check.faults(plan.out)
    assert not problems and sum(outcomes.values()) == 2000
    assert outcomes["duplicate"] == 3 * 10 and outcomes["near duplicate"] == 3 * 10
