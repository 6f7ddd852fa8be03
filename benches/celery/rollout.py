"""The shape of a rollout on Celery: four batches, one after another, of chains of five tasks that do
nothing but one durable UPDATE and one SELECT. A batch is a chord, and its callback submits the next: one
canvas for the whole rollout costs quadratic time. Prints targets, tasks per second, microseconds per target.
"""

import argparse
import os
import subprocess
import sys
import time

import psycopg
from celery import Celery, chain, chord

BATCHES = 4
STAGES = 5
WORKERS = 2
PATIENCE_SECONDS = 600

database = os.environ.get("BENCH_DATABASE")
app = Celery("rollout", broker=os.environ.get("BENCH_REDIS"), backend=os.environ.get("BENCH_REDIS"))
app.conf.update(
    worker_prefetch_multiplier=64,
    worker_disable_rate_limits=True,
    worker_hijack_root_logger=False,
    # Without it a worker that dies takes its tasks with it.
    task_acks_late=True,
    result_expires=3600,
    broker_connection_retry_on_startup=True,
)

_connection = None


def connection():
    """One connection for each process of the worker."""
    global _connection
    if _connection is None:
        _connection = psycopg.connect(database, autocommit=True)
    return _connection


@app.task(ignore_result=False)
def stage(_before, target, number):
    conn = connection()
    conn.execute("SELECT stage FROM targets WHERE id = %s", (target,)).fetchone()
    conn.execute("UPDATE targets SET stage = %s WHERE id = %s", (number, target))


@app.task(ignore_result=True)
def batch_ended(_results, batch, targets):
    if batch + 1 < BATCHES:
        submit(batch + 1, targets)
    else:
        connection().execute("INSERT INTO ended VALUES (1)")


def submit(batch, targets):
    chains = [
        chain(first(target), *inner(target), stage.s(target, STAGES))
        for target in range(batch, targets, BATCHES)
    ]
    chord(chains)(batch_ended.s(batch, targets))


# A chord counts the last task of each chain, so the results of the others need not be kept.
def first(target):
    return stage.s(None, target, 1).set(ignore_result=True)


def inner(target):
    return (stage.s(target, number).set(ignore_result=True) for number in range(2, STAGES))


def measure(targets):
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("CREATE TABLE targets (id INT PRIMARY KEY, stage INT NOT NULL)")
        conn.execute("CREATE TABLE ended (id INT PRIMARY KEY)")
        conn.execute("INSERT INTO targets SELECT n, 0 FROM generate_series(0, %s) n", (targets - 1,))
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "rollout", "worker", "-P", "prefork"]
            + ["-c", str(WORKERS), "-l", "ERROR", "--without-gossip", "--without-mingle"],
            cwd=os.path.dirname(os.path.abspath(__file__)),
            stdout=subprocess.DEVNULL,
        )
        try:
            wait(lambda: app.control.ping(timeout=1), "no worker has started")
            started = time.monotonic()
            submit(0, targets)
            wait(lambda: conn.execute("SELECT 1 FROM ended").fetchone(), "the rollout has not ended")
            took = time.monotonic() - started
        finally:
            worker.terminate()
            worker.wait()
        done = conn.execute("SELECT count(*) FROM targets WHERE stage = %s", (STAGES,)).fetchone()[0]
        if done != targets:
            sys.exit(f"{done} of {targets} targets went through all stages")
    print(f"{targets:7}  {targets * STAGES / took:7.0f}  {took * 1e6 / targets:9.1f}", flush=True)


def wait(is_so, otherwise):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            sys.exit(otherwise)
        time.sleep(0.01)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, required=True, help="a multiple of 4")
    parser.add_argument("--database", required=True, help="URL of an empty PostgreSQL database")
    parser.add_argument("--redis", required=True, help="URL of an empty Redis")
    arguments = parser.parse_args()
    environment = dict(os.environ, BENCH_DATABASE=arguments.database, BENCH_REDIS=arguments.redis)
    if database is None:
        # Workers import this file and need the same settings.
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    measure(arguments.targets)


if __name__ == "__main__":
    main()
