"""`python -m prefopt.datasets check`: what it finds, what it says, how it ends."""

import json
import subprocess
import sys

import pytest

from prefopt.datasets.__main__ import main


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    code = 0
    try:
        main(["check", *arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    return code, *capsys.readouterr()


def row(number: int, **more: object) -> dict[str, object]:
    return {"prompt": f"Is {number} even?", "chosen": " Yes.", "rejected": " No."} | more


def test_a_sound_file_is_described_and_ends_with_0(write, capsys):
    path = write(*[row(i, annotator=i % 3, score_chosen=i, score_rejected=1) for i in range(20)])
    code, out, err = check(capsys, str(path))
    assert code == 0
    assert not err
    assert "All rows are sound." in out
    for said in ("20, 20 of them sound", "prompt (20)", "different prompts", "annotators", "score_chosen (20)"):
        assert said in out
    lines = {cells[1].strip(): cells[2].strip() for line in out.splitlines() if len(cells := line.split("│")) > 2}
    assert lines["annotators"] == "3"
    assert lines["chosen not above rejected"] == "2"
    assert lines["characters a response"] == "median 5, 95 % 5, longest 5"


def test_every_kind_of_problem_is_shown_with_first_places_and_mend(write, capsys):
    path = write(
        row(0),
        row(1, rejected=" Yes."),
        row(2, chosen=""),
        *[row(i, rejected=" Yes.") for i in range(3, 7)],
        row(0),
        row(8, margin="big"),
        {"prompt": "a", "chosen": "b"},
    )
    with path.open("ab") as file:
        file.write(b'{"prompt": \n{"prompt": "caf\xe9"}\n')
    code, out, err = check(capsys, str(path))
    assert code == 2
    places = {"equal_responses": 2, "empty_response": 3, "duplicate": 8, "not_a_number": 9, "missing_column": 10}
    for kind, line in (places | {"malformed_json": 11, "not_utf8": 12}).items():
        assert f"{kind}: " in out
        assert f"{path}:{line}: " in out
    assert "equal_responses: 5" in out
    assert f"{path}:5: " in out
    assert f"{path}:6: " not in out
    assert out.count("  mend: ") == 7
    assert "is not sound: " in err
    assert "equal_responses 5" in err


def test_all_splits_of_a_folder_are_looked_over_and_told_apart(write, capsys):
    write(row(1), name="data/train.jsonl")
    folder = write(row(1), name="data/validation.jsonl").parent
    code, out, _ = check(capsys, str(folder))
    assert code == 2
    assert "train" in out
    assert "validation" in out
    assert f"validation.jsonl:1: the same prompt, responses and preference as at {folder}/train.jsonl:1" in out


def test_implicit_prompts_and_other_names_of_columns_are_read_when_asked_for(write, capsys):
    start = "\n\nHuman: a\n\nAssistant:"
    path = str(write({"good": start + " x", "bad": start + " y"}))
    assert check(capsys, path)[0] == 2
    names = ["--column", "chosen=good", "--column", "rejected=bad"]
    assert check(capsys, path, *names)[0] == 2
    assert check(capsys, path, *names, "--implicit-prompt")[0] == 0
    assert "no such column" in check(capsys, path, "--column", "winner=good")[2]


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_rows_is_an_error(tmp_path, capsys, content):
    path = tmp_path / "pairs.jsonl"
    path.write_text(content)
    code, _, err = check(capsys, str(path))
    assert code == 2
    assert "no rows" in err
    assert "mend: " in err


@pytest.mark.shared_data
def test_harmless_dialogues_are_found_to_have_three_empty_responses(shared_data, capsys):
    code, out, err = check(capsys, str(shared_data / "hh_harmless"), "--implicit-prompt")
    assert code == 2
    assert "1500, 1497 of them sound" in out
    assert "400, 400 of them sound" in out
    assert "empty_response: 3" in out
    assert "train.jsonl.gz:398: " in out
    assert "is not sound: empty_response 3" in err


def test_neither_help_nor_a_check_of_jsonl_imports_torch_or_transformers(write):
    path = write(row(0))
    for arguments in (["check", "--help"], ["check", str(path)]):
        code = (
            "import sys\nfrom prefopt.datasets.__main__ import main\n"
            f"try:\n    main({json.dumps(arguments)})\nexcept SystemExit as end:\n    assert not end.code\n"
            "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'numpy'} & sys.modules.keys()\n"
            "assert not heavy, heavy"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
