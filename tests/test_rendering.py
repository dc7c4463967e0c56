"""Pictures of rendezvous, films of episodes, and `python -m mir2bench.render`."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from PIL import Image, ImageSequence

import mir2bench
from mir2bench import render
from mir2bench.cli import parse_phi, run
from mir2bench.engines.rendezvous_drawing import HEIGHT, WIDTH, draw
from mir2bench.errors import MissingDependencyError, PartitionError
from mir2bench.evaluation.contenders import make_scripted
from mir2bench.policies import save_policy

VARIANT = mir2bench.spec("Rendezvous5-adv1-v0")
RED, BLUE, WHITE = np.array([214, 39, 40]), np.array([0, 114, 178]), np.array([255, 255, 255])
TEAM = ["--policy", "scripted:centroid", "--env", "Rendezvous5-adv1-v0"]


def snapshots(path: list[list[list[float]]]) -> list[dict[str, np.ndarray]]:
    return [{"poses": np.array(poses, float)} for poses in path]


def pixel(frame: np.ndarray, x: float, y: float) -> np.ndarray:
    """The color at a point of the arena in cm."""
    scale = WIDTH / 220  # the arena with 10 cm on each side
    return frame[HEIGHT - 1 - round((y + 10) * scale), round((x + 10) * scale)].astype(int)


def call(*args: object) -> int:
    return run(render.main, prog="python -m mir2bench.render", description=render.DESCRIPTION, args=[*map(str, args)])


def count_frames(film: Path) -> int:
    import imageio_ffmpeg

    return imageio_ffmpeg.count_frames_and_secs(str(film))[0]


# --- the picture ---


def test_robots_stand_where_they_are_in_their_colors() -> None:
    poses = [[20, 180, 0], [180, 180, 0], [20, 20, 0], [180, 20, 0]]
    frame = draw(snapshots([poses]), np.array([0, 0, 1, 0]), VARIANT)
    assert (frame.shape, frame.dtype) == ((544, 512, 3), np.uint8)
    for robot, (x, y, _) in enumerate(poses):
        color = RED if robot == 2 else BLUE
        assert np.abs(pixel(frame, x, y + 3.0) - color).max() < 12  # beside the white arrow
    assert np.array_equal(pixel(frame, 110, 40), WHITE)


def test_heading_points_counterclockwise_from_the_right() -> None:
    for heading, (dx, dy) in ((0.0, (1, 0)), (np.pi / 2, (0, 1)), (np.pi, (-1, 0)), (-np.pi / 2, (0, -1))):
        frame = draw(snapshots([[[100, 100, heading]]]), np.array([0]), VARIANT)
        ahead, behind = (pixel(frame, 100 + s * dx, 100 + s * dy) for s in (1.0, -2.6))
        assert ahead.min() > 200
        assert np.abs(behind - BLUE).max() < 60


def test_adversaries_wear_a_ring() -> None:
    history = snapshots([[[50, 100, 0], [150, 100, 0]]])
    frame = draw(history, np.array([0, 1]), VARIANT)
    ring = 3.5 + 4.0 * 220 / WIDTH  # cm from the center: the disc and four pixels
    assert np.abs(pixel(frame, 150, 100 + ring) - RED).max() < 40
    assert pixel(frame, 50, 100 + ring).min() > 230


def test_trails_fade_with_age_and_end() -> None:
    path = snapshots([[[10 + 2 * t, 100, 0]] for t in range(80)])
    frame = draw(path, np.array([0]), VARIANT)
    at = [pixel(frame, 10 + 2 * t, 100)[0] for t in (70, 50, 30, 10)]
    assert at[0] < at[1] < at[2] < at[3] == 255  # red grows as blue fades into white; 60 steps later it is gone


def test_walls_surround_the_floor() -> None:
    frame = draw(snapshots([[[100, 100, 0]]]), np.array([0]), VARIANT)
    for x, y in ((-0.6, 50), (200.6, 50), (50, -0.6), (50, 200.6)):
        assert pixel(frame, x, y).max() < 100
    for x, y in ((3, 30), (197, 30), (30, 3), (30, 197)):
        assert pixel(frame, x, y).min() > 230


def test_the_header_counts_steps_and_the_picture_is_a_function_of_its_input() -> None:
    poses = [[100, 100, 0]]
    one, two = (draw(snapshots([poses] * n), np.array([0]), VARIANT) for n in (1, 2))
    assert np.array_equal(one, draw(snapshots([poses]), np.array([0]), VARIANT))
    rows = np.unique(np.argwhere((one != two).any(axis=-1))[:, 0])
    assert rows.min() > 8
    assert rows.max() < 32  # only the step counter differs


def test_drawing_is_fast_enough_for_films() -> None:
    rng = np.random.default_rng(0)
    steps = np.concatenate([rng.uniform(10, 190, (1, 10, 3)), rng.normal(0, 1, (100, 10, 3))]).cumsum(axis=0)
    history = [{"poses": np.clip(p, 0, 200)} for p in steps]
    spent = []
    for _ in range(5):
        start = time.perf_counter()
        draw(history, np.eye(10)[3], VARIANT)
        spent.append(time.perf_counter() - start)
    assert min(spent) < 1 / 30


# --- Gymnasium ---


def test_record_video_films_an_episode(tmp_path: Path) -> None:
    env = gymnasium.wrappers.RecordVideo(
        gymnasium.make("mir2bench/Rendezvous5-adv1-v0", render_mode="rgb_array"),
        str(tmp_path / "films"),
        disable_logger=True,
    )
    env.reset(seed=0)
    for _ in range(5):
        env.step(np.ones(env.action_space.shape))
    env.close()
    films = list((tmp_path / "films").glob("*.mp4"))
    assert [count_frames(film) for film in films] == [6]


# --- the command ---


def test_film_shows_the_episode_that_the_environment_plays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "last.png"
    assert call(*TEAM, "--seed", 3, "--out", out) == 0
    env = gymnasium.make("mir2bench/Rendezvous5-adv1-v0", render_mode="rgb_array")
    obs, _ = env.reset(seed=3, options={"phi": [0, 0, 0, 0, 0]})
    team = make_scripted(VARIANT, "centroid")
    total, steps, over = 0.0, 0, False
    while not over:
        actions, _ = team.act(obs[None], None, rng=np.random.default_rng(0))
        obs, reward, terminated, truncated, _ = env.step(actions[0])
        total, steps, over = total + float(reward), steps + 1, terminated or truncated
    assert np.array_equal(np.asarray(Image.open(out)), env.render())
    said = capsys.readouterr().out.splitlines()
    assert said == [f"team return {total:.2f} in {steps} steps, adversaries: none", f"wrote {out}"]


def test_gif_has_every_nth_frame_and_the_last(tmp_path: Path) -> None:
    out = tmp_path / "attack.gif"
    assert call(*TEAM, "--attacker", "dodge", "--phi", "2", "--every", 30, "--fps", 10, "--out", out) == 0
    with Image.open(out) as film:
        assert film.n_frames == 8  # steps 0, 30, ..., 180 and 200
        assert (film.size, film.info["duration"], film.info["loop"]) == ((WIDTH, HEIGHT), 100, 0)
        frames = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(film)]
    assert all((a != b).any() for a, b in pairwise(frames))
    still = tmp_path / "last.png"
    assert call(*TEAM, "--attacker", "dodge", "--phi", "00100", "--out", still) == 0
    assert np.abs(frames[-1] - np.asarray(Image.open(still))).mean() < 2  # the palette costs little


def test_mp4_is_readable(tmp_path: Path) -> None:
    out = tmp_path / "attack.mp4"
    assert call(*TEAM, "--attacker", "dodge", "--every", 20, "--out", out) == 0
    assert count_frames(out) == 11  # steps 0, 20, ..., 180 and 200


def test_mp4_without_its_package_names_the_pip_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingDependencyError, match="pip install imageio-ffmpeg"):
        render.write_film(tmp_path / "a.mp4", [np.zeros((16, 16, 3), np.uint8)], 10)
    assert list(tmp_path.iterdir()) == []


def test_adversaries_from_a_bundle_play_their_own_phi(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mir2bench.learning.networks import Actor, ActorShape
    from mir2bench.learning.policy import NetworkPolicy

    layout = VARIANT.layout
    policy = NetworkPolicy(Actor(ActorShape(layout.obs_dim, layout.action_dim, layout.discrete, 8, False)), 1)
    folder = tmp_path / "bundle"
    save_policy(policy, folder, variant=VARIANT, algorithm="learned", config={}, seed=0, extra={"phi": "00010"})
    assert call(*TEAM, "--attacker", folder, "--out", tmp_path / "a.png") == 0
    assert "adversaries: 3\n" in capsys.readouterr().out
    assert call("--policy", folder, "--out", tmp_path / "b.png") == 2
    assert "adversaries, not a team of 5" in capsys.readouterr().err
    two = ["--policy", "scripted:centroid", "--env", "Rendezvous5-adv2-v0", "--attacker", folder, "--phi", "1,2"]
    assert call(*two, "--out", tmp_path / "b.png") == 2
    assert "plays 1 adversaries, but phi names 2: give --phi to match" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "a.bmp"], "--out must end in .gif, .mp4, .png, but it is 'a.bmp'."),
        (["--out", "/nowhere/a.gif"], "the folder of --out /nowhere/a.gif does not exist. Make it first."),
        (["--out", "a.gif", "--fps", "0"], "--fps must be 1 or more, but it is 0."),
        (["--out", "a.gif", "--every", "-1"], "--every must be 1 or more, but it is -1."),
        (["--out", "a.gif", "--seed", "-1"], "--seed must be 0 or more, but it is -1."),
        (["--out", "a.gif", "--phi", "2"], "--phi names adversaries (2), so say with --attacker how they behave."),
        (["--out", "a.gif", "--attacker", "fle"], "one of circle, dodge, flee, greedy, idle, random, not 'fle'."),
        (["--out", "a.gif", "--attacker", "flee", "--phi", "none"], "at least one adversary, but phi is all 0"),
        (["--out", "a.gif", "--attacker", "flee", "--phi", "1,2"], "phi names 2 adversaries"),
        (["--out", "a.gif", "--policy", "scripted:centre"], "No scripted team of Rendezvous `centre`."),
        (["--out", "a.gif", "--env", "Rendevous5-adv1-v0"], "Did you mean `mir2bench/Rendezvous5-adv1-v0`"),
    ],
)
def test_bad_input_is_told_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = [*TEAM]
    for flag, value in zip(arguments[::2], arguments[1::2], strict=True):
        if flag in chosen:
            chosen[chosen.index(flag) + 1] = value
        else:
            chosen += [flag, value]
    assert call(*chosen) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message in said
    assert list(tmp_path.iterdir()) == []


def test_phi_on_a_command_line() -> None:
    for text in ("00100", "0,0,1,0,0", "0 0 1 0 0", "2"):
        assert parse_phi(text, 5, 1).phi == (0, 0, 1, 0, 0)
    assert parse_phi("4,0", 5).phi == parse_phi("0+4", 5).phi == (1, 0, 0, 0, 1)
    assert parse_phi("none", 5, 1).weight == 0
    assert parse_phi("10", 11).adversaries == (10,)
    assert parse_phi("10", 2).phi == (1, 0)  # as long as the team, so it is phi itself
    for text in ("", "5", "x", "-1", "0010", "1.5"):
        with pytest.raises(PartitionError, match="5 zeros and ones such as 10000, indices of agents from 0 to 4"):
            parse_phi(text, 5)
    with pytest.raises(PartitionError, match="phi names 2 adversaries, but this variant allows exactly 1"):
        parse_phi("0,1", 5, 1)
