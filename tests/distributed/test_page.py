"""docs/distributed.md: its programs run on two processes, accelerate takes its files."""

import pytest
import yaml
from accelerate.commands.config import load_config_from_file
from accelerate.commands.launch import launch_command_parser

from tests.conftest import ROOT
from tests.distributed.spawn import run, shards_on_cpu
from tests.test_readme import blocks

PAGE = ROOT / "docs" / "distributed.md"


@shards_on_cpu
@pytest.mark.slow
def test_the_programs_run(tmp_path):
    loop, checkpoint = blocks(PAGE, "python")
    end = "torch.distributed.destroy_process_group()\n"
    assert loop.endswith(end)
    (tmp_path / "loop.py").write_text(loop.removesuffix(end) + checkpoint + "print(optimizer.telemetry())\n")
    first, second = run("page", 2, str(tmp_path / "loop.py"), "telemetry")
    assert first == second and first["momentum_norm"] > 0


def test_accelerate_takes_the_files(tmp_path):
    known = {action.dest for action in launch_command_parser()._actions}
    files = blocks(PAGE, "yaml")
    assert len(files) == 2
    for text in files:
        (tmp_path / "config.yaml").write_text(text)
        config = load_config_from_file(str(tmp_path / "config.yaml"))
        assert config.num_processes == 2
        assert set(yaml.safe_load(text).get("fsdp_config", {})) <= known
        assert (config.fsdp_config.get("fsdp_version") == 2) is ("FSDP" in str(config.distributed_type))
