"""Worker processes for algebra: deadlines, memory, and that none outlives its pool."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FunctionType, SimpleNamespace

import pytest

from tools.reasoning_data_pipeline.answers import algebra, algebra_worker
from tools.reasoning_data_pipeline.answers import checker as checker_module
from tools.reasoning_data_pipeline.answers.algebra import AlgebraPool, to_latex
from tools.reasoning_data_pipeline.answers.checker import AnswerChecker, Outcome

ROOT = Path(__file__).parents[4]
DEADLINE_S = 0.5
OVER_DEADLINE_S = 0.1
ENDLESS = r"\int e^{x^2} sin(x^3) dx"
BOMBS = (
    r"\int e^{x^2}\sin(x^3) dx",
    r"\prod_{k=1}^{100000} k",
    r"\sum_{n=1}^{10^{9}} n!",
    r"\lim_{x\to 0} 9^{9^{9^{x}}}",
    "9**9**9",
    "10^{10^{10}}",
    "1000000000!",
    "((5!)!)!",
    "(" * 5000 + "1" + ")" * 4999,
    "{" * 5000,
    r"\frac{" * 900 + "1",
    "x^" * 1000 + "x",
    r"\def\x{\x\x}\x",
    "__import__('os').system('true')",
)


def workers_of(pool):
    """Process ids in the session that the pool's nursery leads."""
    listing = subprocess.run(["ps", "-o", "pid=", "-s", str(pool._nursery.pid)], capture_output=True, text=True)
    return [int(line) for line in listing.stdout.split()]


def is_alive(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{process_id}/stat").read_text().split(")")[1][:3]


@pytest.fixture(scope="module")
def pool():
    with AlgebraPool(deadline_s=DEADLINE_S) as pool:
        assert pool.equal("1", "1", limit_s=60) is True  # warm
        yield pool


@pytest.mark.parametrize(
    ("predicted", "gold", "agree"),
    [
        (r"\int_0^1 x^2 dx", r"\frac{1}{3}", True),
        (r"\int_0^1 x^2 dx", r"\frac{1}{2}", False),
        (r"\int_0^1 x^2 dx", "0.333", True),
        (r"\int x dx", r"\frac{x^2}{2}", True),
        (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}", True),
        (r"\sum_{k=1}^{n} k", r"\frac{n(n-1)}{2}", False),
        (r"\lim_{x→ 0}\frac{ sin x}{x}", "1", True),
        (r"\frac{d}{dx} x^2", "2x", True),
        ("x^2<4", "-2<x<2", True),
        ("x^2<4", "(-2,2)", True),
        ("2x+1<5", "x<2", True),
        ("2x+1<5", "x<3", False),
        (r"\prod_{k=1}^{200} k", "1", False),
    ],
)
def test_what_only_algebra_can_tell(pool, predicted, gold, agree):
    assert pool.equal(predicted, gold, limit_s=20) is agree


@pytest.mark.parametrize("nonsense", [r"\int", r"\frac{", r"\unknown{x}", "", "是", r"\int_0^1 \frac{1}{0} dx"])
def test_what_sympy_does_not_understand_is_unknown(pool, nonsense):
    assert pool.equal(nonsense, "1", limit_s=20) in (None, False)


def test_an_endless_question_ends_at_its_deadline_and_the_next_is_answered(pool):
    before = workers_of(pool)
    begin = time.monotonic()
    assert pool.equal(ENDLESS, "1") is None
    assert DEADLINE_S <= time.monotonic() - begin < DEADLINE_S + 1
    begin = time.monotonic()
    assert pool.equal("x^2<4", "(-2,2)", limit_s=20) is True
    assert time.monotonic() - begin < 10
    assert set(workers_of(pool)) - set(before), "the killed worker was not replaced"


def test_a_worker_that_dies_is_replaced(pool):
    worker = pool._idle.get()
    pool._idle.put(worker)
    os.kill(worker.process_id, signal.SIGKILL)
    assert pool.equal("x^2<4", "(-2,2)", limit_s=20) is None
    assert pool.equal("x^2<4", "(-2,2)", limit_s=20) is True


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb[:20])
def test_nothing_is_over_its_deadline_by_more_than_a_second(bomb_checker, bomb):
    begin = time.monotonic()
    outcomes = {bomb_checker.check(*pair).outcome for pair in ((bomb, "5"), ("5", bomb))}
    assert time.monotonic() - begin < 2 * (DEADLINE_S + 1)
    assert Outcome.CORRECT not in outcomes


@pytest.fixture(scope="module")
def bomb_checker():
    with AnswerChecker(deadline_s=DEADLINE_S) as checker:
        checker.check(r"\int_0^1 x dx", "1/2")
        yield checker


@pytest.mark.parametrize("says", [b"", b"t"], ids=["nothing", "half a word, again and again"])
def test_a_slow_worker_is_left_at_its_deadline_by_the_clock_of_the_pool(says):
    ours, theirs = socket.socketpair()
    ended = threading.Event()

    def answer_slowly():
        while not ended.wait(0.02):
            theirs.sendall(says)

    with ours, theirs, ThreadPoolExecutor(1) as threads:
        slow = threads.submit(answer_slowly)
        begin = time.monotonic()
        assert AlgebraPool._ask(algebra._Worker(0, ours), ["1", "1"], 0.3) is None
        assert 0.3 <= time.monotonic() - begin <= 0.3 + OVER_DEADLINE_S
        ended.set()
        slow.result()


def test_all_gold_answers_of_a_row_share_its_deadline_and_the_start_of_a_worker_is_not_under_it(monkeypatch):
    clock, limits = [100.0], []

    def ask(worker, question, limit_s):
        limits.append(limit_s)
        clock[0] += 0.75
        return b"false"

    def start(pool):
        clock[0] += 3.5
        return algebra._Worker(0, socket.socket())

    monkeypatch.setattr(checker_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(AlgebraPool, "_new_worker", start)
    monkeypatch.setattr(AlgebraPool, "_ask", staticmethod(ask))
    with AnswerChecker(deadline_s=2.0) as checker:
        golds = [rf"\int_0^1 {factor} e^x dx" for factor in (2, 3, 4)]
        assert checker.check(r"\int_0^1 e^x dx", golds).outcome is Outcome.WRONG
    assert limits == [2.0, 1.25, 0.5]


def test_questions_from_several_threads_wait_for_a_worker_each_with_its_own_time():
    with AlgebraPool(workers=2, deadline_s=20) as pool, ThreadPoolExecutor(6) as threads:
        answers = threads.map(lambda k: pool.equal(rf"\int_0^1 {2 * k}x dx", str(k)), range(1, 7))
        assert list(answers) == [True] * 6
        assert len(workers_of(pool)) <= 3  # the nursery and two workers


def test_a_worker_has_the_memory_it_is_given_and_no_core_file():
    with AlgebraPool(deadline_s=20, memory_mb=512) as pool:
        assert pool.equal("1", "1") is True
        worker = pool._idle.get()
        pool._idle.put(worker)
        limits = Path(f"/proc/{worker.process_id}/limits").read_text()
    rows = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()}
    assert rows["Max address space"] == [str(512 << 20)] * 2
    assert rows["Max core file size"] == ["0", "0"]


def test_closing_ends_every_process_and_the_pool_starts_anew():
    with AlgebraPool(deadline_s=20) as pool:
        assert pool.equal("1", "1") is True
        processes = workers_of(pool)
        assert len(processes) == 2
    deadline = time.monotonic() + 5
    while any(map(is_alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_alive, processes))
    assert pool.equal("1", "1") is True
    pool.close()


def test_workers_end_when_the_asking_process_is_killed():
    code = f"""
        import time
        from tools.reasoning_data_pipeline.answers.algebra import AlgebraPool
        pool = AlgebraPool(deadline_s=300)
        pool.equal("1", "1")
        print(pool._nursery.pid, flush=True)
        pool.equal({ENDLESS!r}, "1")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    session = int(process.stdout.readline())
    time.sleep(0.3)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 5
    listing = ["ps", "-o", "pid=", "-s", str(session)]
    while subprocess.run(listing, capture_output=True).stdout.strip() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not subprocess.run(listing, capture_output=True).stdout.strip()


def test_a_worker_script_that_cannot_start_is_an_error_that_names_it(tmp_path, monkeypatch):
    script = tmp_path / "broken.py"
    script.write_text("raise SystemExit(3)\n")
    monkeypatch.setattr(algebra, "WORKER_SCRIPT", script)
    with AlgebraPool() as pool, pytest.raises(RuntimeError, match="broken.py"):
        pool.equal("1", "1")


def test_impossible_pools_are_refused():
    with pytest.raises(ValueError, match="workers=0"):
        AlgebraPool(workers=0)
    with pytest.raises(ValueError, match="deadline_s=0"):
        AlgebraPool(deadline_s=0)


def test_normalised_text_becomes_latex_again():
    assert to_latex("x≤2π") == r"x\le 2\pi "
    assert to_latex(" sin x+ln(2)") == r" \sin  x+\ln (2)"
    assert to_latex("⦃1,2⦄∪∅") == r"\{1,2\}\cup \emptyset "
    assert to_latex("2**3*4") == r"2^3\cdot 4"


def out_of_memory():
    raise MemoryError


def out_of_stack():
    return out_of_stack()


@pytest.mark.parametrize("fail", [out_of_memory, out_of_stack])
@pytest.mark.parametrize(("found", "said"), [(False, None), (True, True)])
def test_different_is_not_said_by_a_comparison_that_ran_short(monkeypatch, fail, found, said):
    def swallowing(*formulas, **options):
        with contextlib.suppress(MemoryError, RecursionError):
            fail()
        return found

    monkeypatch.setattr(algebra_worker, "verify", swallowing)
    assert algebra_worker.equal("x<2", "y<3") is said
    assert sys.gettrace() is None


def test_a_shortage_below_the_grammar_is_seen_by_whoever_called_it(monkeypatch):
    names = {}
    code = out_of_stack.__code__.replace(co_filename=os.path.join(os.sep, "antlr4", "Parser.py"))
    names["out_of_stack"] = FunctionType(code, names)

    def swallowing(*formulas, **options):
        with contextlib.suppress(RecursionError):
            names["out_of_stack"]()
        return False

    monkeypatch.setattr(algebra_worker, "verify", swallowing)
    assert algebra_worker.equal("x<2", "y<3") is None


def test_a_comparison_that_did_not_run_short_says_different(monkeypatch):
    monkeypatch.setattr(algebra_worker, "verify", lambda *formulas, **options: False)
    assert algebra_worker.equal("x<2", "y<3") is False
