"""Settings that Flower's parser would drop are refused where the text is available."""

import pytest

from flasc_flwr.app.cli.common import parsed
from flasc_flwr.flower.compat import parse_config_args

DROPPED = {
    "seed=1 lora-rank = 8": "lora-rank = 8",
    "seed=1 lora-rank =8": "lora-rank =8",
    "seed=1 lora-rank= 8": "lora-rank= 8",
    "class-names='a','b'": "class-names='a','b'",
    'class-names="a","b" seed=1': 'class-names="a","b" seed=1',
    "seed=1 model='a''b'": "model='a''b'",
    "seed=1, lora-rank 8": "lora-rank 8",
    "seed=1 dense": "dense",
    "seed=1 model='unfinished": "model='unfinished",
}


@pytest.mark.parametrize(("text", "dropped"), DROPPED.items())
@pytest.mark.parametrize(
    "command", [["check"], ["local-run"], ["run", "-c"], ["sweep", "--into", "x", "-c"]]
)
def test_row_12_what_flower_would_drop_is_refused(call, text, dropped, command):
    words = [*command, text, *(["--seed", "0,1"] if command[0] == "sweep" else [])]
    result = call(*words)
    assert result.exit_code == 1
    assert "Error: --run-config" in result.output
    # Flower's parser either refuses the text as well, or reads less than all of it.
    try:
        parse_config_args([text])
    except Exception:
        return
    assert "Flower would drop" in result.output
    assert dropped.split()[0] in result.output


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "seed=1",
        " seed=1\n lora-rank=8\t method='dense' ",
        "class-names='a,b c' output-dir=\"/a b/c\" upload-density='1/16'",
        "dp-clip-norm=1.5 augment=true seed=-1",
        "model='it is = here'",
    ],
)
def test_row_12_what_flower_reads_whole_is_not(text):
    assert parsed([text]) == parse_config_args([text])


def test_row_12_each_of_several_texts_is_read(call):
    result = call("check", "seed=1", "lora-rank = 8")
    assert result.exit_code == 1 and "'lora-rank = 8'" in result.output


def test_row_12_a_key_given_twice_is_named(call):
    result = call("check", "seed=1 lora-rank=8 seed=2")
    assert result.exit_code == 1
    assert "must have each key once, got 'seed' twice" in result.output


@pytest.mark.parametrize("in_file", [True, False])
def test_row_12_a_list_is_refused_with_the_way_to_write_it(call, tmp_path, in_file):
    text = 'class-names=["a","b"]'
    (tmp_path / "lists.toml").write_text(text)
    result = call("check", str(tmp_path / "lists.toml") if in_file else text)
    assert result.exit_code == 1
    assert "write a list as text, such as class-names='cat,dog'" in result.output


def test_row_12_settings_of_the_simulation_are_read_whole(call):
    words = ["run", "--federation-config", "num-supernodes=2 init-args-num-cpus = 2"]
    result = call(*words)
    assert result.exit_code == 1
    assert "--federation-config: Flower would drop 'init-args-num-cpus" in result.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partition-id=0 data_path='/a'", "data_path is not a key of --node-config"),
        ("upload_density=0.1", "did you mean upload-density?"),
        ("upload-density = 0.1", "--node-config"),
        ("partition-id=0 upload-density = 0.1", "would drop 'upload-density = 0.1'"),
        ("upload-density=2", "upload-density must be a number in"),
        ("partition-id=3 num-partitions=2", "0 <= partition-id < num-partitions"),
        ("partition-id=3", "got 3 and None"),
    ],
)
def test_row_12_a_device_can_check_its_settings(call, text, said):
    result = call("check", "--node-config", text)
    assert result.exit_code == 1 and said in result.output, result.output


def test_row_12_keys_that_nobody_reads_are_refused(call):
    words = "partition-id=0 num-partitions=2 rank=4 camera='left'"
    result = call("check", "--node-config", words)
    assert result.exit_code == 1
    assert "rank is not a key of --node-config, allowed are data-path" in result.output
