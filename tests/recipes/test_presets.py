"""accelerate's presets: read by accelerate's own loader, become what they say, and start what they promise."""

import json

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, patch_environment
from accelerate.utils.launch import prepare_multi_gpu_env

from tamft.errors import InputError
from tamft.train import launch, shipped
from tamft.train.catalogue import yaml_head

EXPECTED = {  # kind, processes, machines
    "cpu": (DistributedType.NO, 1, 1),
    "gpu": (DistributedType.NO, 1, 1),
    "ddp": (DistributedType.MULTI_GPU, 2, 1),
    "fsdp2": (DistributedType.FSDP, 2, 1),
    "multi_node": (DistributedType.MULTI_GPU, 16, 2),
}


def test_all_are_tested():
    assert set(shipped.presets()) == set(EXPECTED)


def command(*flags):
    return launch.accelerate_command(launch._own_options([str(flag) for flag in flags])[0])


def launched(name, *flags):
    """What `accelerate launch` makes of the command that `tamft train` gives it."""
    words = command("--accelerate_config", name, *flags)
    args = launch_command_parser().parse_args([*words[words.index("--quiet") :], "recipe.py"])
    return _validate_launch_command(args)[0]


@pytest.mark.parametrize("name", EXPECTED)
def test_loader(name):
    config = load_config_from_file(str(shipped.presets()[name]))
    kind, processes, machines = EXPECTED[name]
    assert (config.distributed_type, config.num_processes, config.num_machines) == (kind, processes, machines)
    # Trainer's --bf16 decides: a second opinion in the environment would win in silence
    assert config.mixed_precision == "no"
    assert config.use_cpu == (name == "cpu")


@pytest.mark.parametrize("name", EXPECTED)
def test_launcher_takes_it(name):
    args = launched(name)
    assert args.num_processes == EXPECTED[name][1]
    assert args.use_fsdp == (name == "fsdp2")
    assert args.multi_gpu == (name in ("ddp", "multi_node"))


def test_command_line_wins():
    assert launched("ddp", "--num_processes", 4).num_processes == 4


def test_several_machines():
    args = launched("multi_node")
    prepare_multi_gpu_env(args)
    assert (args.nproc_per_node, args.nnodes, args.node_rank) == ("8", "2", 0)
    assert args.rdzv_endpoint == "10.0.0.1:29500"


def test_fsdp2_becomes_version_2_with_a_layer_that_exists():
    import transformers.models.modernbert.modeling_modernbert as modernbert

    environment = prepare_multi_gpu_env(launched("fsdp2"))
    with patch_environment(**{key: environment[key] for key in environment if key.startswith("FSDP")}):
        plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
    (layer,) = plugin.transformer_cls_names_to_wrap
    assert hasattr(modernbert, layer)


def test_layers_that_the_comment_names_exist(tiny_of):
    text = shipped.presets()["fsdp2"].read_text(encoding="utf-8")
    for architecture in ("modernbert", "bert", "xlm-roberta", "qwen3", "mistral", "llama", "gemma3_text"):
        from transformers import AutoModel

        layers = {type(module).__name__ for module in AutoModel.from_pretrained(tiny_of(architecture)).modules()}
        assert any(layer in text for layer in layers if layer.endswith("Layer")), architecture


@pytest.mark.parametrize("name", EXPECTED)
def test_comments(name):
    head = yaml_head(shipped.presets()[name])
    assert {"hardware", "change", "cost"} <= set(head.facts)
    text = shipped.presets()[name].read_text(encoding="utf-8")
    assert f"--accelerate_config {name}" in text


def test_unknown_preset():
    with pytest.raises(InputError, match=r"Did you mean 'fsdp2'\?"):
        command("--accelerate_config", "fsdp")


@pytest.fixture
def train(run_python, tiny_model, rows_file, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def call(*flags):
        words = ["-m", "tamft.cli", "train", "encoder_pairs", "--model", tiny_model, "--train_file", rows_file()]
        words += ["--output_dir", tmp_path / "run", "--max_steps", 2, "--per_device_train_batch_size", 4]
        result = run_python(*words, "--save_strategy", "no", "--optim", "adatamw", *flags)
        assert result.returncode == 0, result.stderr
        return json.loads((tmp_path / "run" / "run.json").read_text()), result

    return call


@pytest.mark.slow
def test_cpu_for_real(train):
    record, _ = train("--accelerate_config", "cpu")
    assert (record["status"], record["steps"]) == ("complete", 2)
    assert record["device"].startswith("cpu: ")
    assert record["config"]["use_cpu"] is False  # it was the preset that said so


@pytest.mark.slow
def test_ddp_for_real_on_two_cpu_processes(train):
    """MULTI_CPU would start one process without MPI; this is torch's launcher with gloo."""
    flags = ["--accelerate_config", "ddp", "--num_processes", 2, "--use_cpu", "true", "--gather_across_devices", "true"]
    record, result = train(*flags)
    assert (record["status"], record["steps"]) == ("complete", 2)
    assert (record["negatives_per_anchor"], record["rows_seen"]) == (7, 16)
    assert result.stdout.count("saved ") == 1
