import asyncio
import logging
import sqlite3
import threading
import time
from contextlib import closing

import pytest

from server.errors import Conflict, StoreUnavailable
from server.store import models
from server.store.db import Store

INSERT = "INSERT INTO tenant (public_id, name, created_at) VALUES (?, ?, 0)"


def insert(name, padding=""):
    models.database.execute_sql(INSERT, (name + padding, name))
    return name


def insert_then_fail(name):
    insert(name)
    raise Conflict("This name is taken.")


def names_in(path):
    with closing(sqlite3.connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM tenant ORDER BY id")]


def with_store(path, scenario):
    async def run():
        store = Store.open(path)
        try:
            return await scenario(store)
        finally:
            await store.close(patience_s=2)

    return asyncio.run(run())


async def until(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def test_200_concurrent_writers_each_get_their_own_result(path):
    async def scenario(store):
        return await asyncio.gather(*(store.write(insert, f"n{i}") for i in range(200)))

    results = with_store(path, scenario)

    assert results == [f"n{i}" for i in range(200)]
    assert names_in(path) == results


def test_more_jobs_than_fit_one_group_are_all_committed_in_order(path):
    async def scenario(store):
        await asyncio.gather(*(store.enqueue(insert, f"n{i}") for i in range(1300)))

    with_store(path, scenario)

    assert names_in(path) == [f"n{i}" for i in range(1300)]


def test_a_result_is_given_only_once_the_row_is_visible_to_others(path):
    async def scenario(store):
        for i in range(20):
            await store.write(insert, f"n{i}")
            assert names_in(path)[-1] == f"n{i}"

    with_store(path, scenario)


def test_a_job_that_fails_undoes_itself_and_nobody_else(path):
    async def scenario(store):
        return await asyncio.gather(
            store.write(insert, "before"),
            store.write(insert_then_fail, "failed"),
            store.write(insert, "after"),
            return_exceptions=True,
        )

    before, failed, after = with_store(path, scenario)

    assert (before, str(failed), after) == ("before", "This name is taken.", "after")
    assert names_in(path) == ["before", "after"]


def test_an_enqueued_job_that_fails_by_itself_is_not_retried(path):
    calls = []

    def fail():
        calls.append(1)
        raise Conflict("This name is taken.")

    async def scenario(store):
        with pytest.raises(Conflict, match="taken"):
            await store.enqueue(fail)
        await store.write(insert, "later")

    with_store(path, scenario)

    assert len(calls) == 1


def test_even_a_stop_iteration_reaches_its_caller(path):
    """asyncio refuses it as a future's exception, which must not strand the other callers."""

    async def scenario(store):
        with pytest.raises(RuntimeError, match="StopIteration"):
            await store.write(next, iter(()))
        return await store.write(insert, "later")

    assert with_store(path, scenario) == "later"


def test_a_cancelled_caller_does_not_cancel_its_job(path):
    async def scenario(store):
        queued = asyncio.create_task(store.write(insert, "cancelled"))
        await asyncio.sleep(0)
        queued.cancel()
        with pytest.raises(asyncio.CancelledError):
            await queued
        await store.write(insert, "later")

    with_store(path, scenario)

    assert names_in(path) == ["cancelled", "later"]


def test_a_settlement_whose_future_was_cancelled_is_still_committed(path):
    async def scenario(store):
        store.enqueue(insert, "cancelled").cancel()
        await store.write(insert, "later")

    with_store(path, scenario)

    assert names_in(path) == ["cancelled", "later"]


def test_callers_cancelled_at_any_moment_lose_no_job(path):
    async def scenario(store):
        for i in range(60):
            task = asyncio.create_task(store.write(insert, f"n{i}"))
            for _ in range(i % 4 + 1):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    with_store(path, scenario)

    assert names_in(path) == [f"n{i}" for i in range(60)]


def test_a_transaction_that_sqlite_dropped_fails_the_whole_group(path):
    """The jobs behind the drop must not commit one by one while those before it are gone."""

    def drop():
        models.database.execute_sql("ROLLBACK")
        raise Conflict("Hides what happened.")

    async def scenario(store):
        jobs = (store.write(insert, "before"), store.write(drop), store.write(insert, "after"))
        return await asyncio.gather(*jobs, return_exceptions=True)

    outcomes = with_store(path, scenario)

    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3
    assert {outcome.retry_after_s for outcome in outcomes} == {1}
    assert names_in(path) == []


def limit_pages(spare):
    """Leave `spare` pages of room, as a disk does; give back the connection to lift the limit."""
    (pages,) = models.database.execute_sql("PRAGMA page_count").fetchone()
    models.database.execute_sql(f"PRAGMA max_page_count = {pages + spare}")
    return models.database.connection()


def lift_limit(connection):
    connection.execute("PRAGMA max_page_count = 1000000").close()


def test_a_full_disk_in_the_middle_of_a_group_leaves_nothing_half_done(path):
    async def scenario(store):
        await store.write(insert, "first")
        connection = await store.write(limit_pages, 8)
        jobs = (store.write(insert, f"n{i}", "x" * 3000) for i in range(60))
        refused = await asyncio.gather(*jobs, return_exceptions=True)
        lift_limit(connection)
        await store.write(insert, "last", "x" * 100_000)
        return refused

    refused = with_store(path, scenario)

    assert [type(outcome) for outcome in refused] == [StoreUnavailable] * 60
    assert names_in(path) == ["first", "last"]


def test_settlements_wait_for_space_and_keep_their_order(path, caplog):
    attempts = []

    def settle(i):
        attempts.append(i)
        insert(f"n{i}", "x" * 300)

    async def scenario(store):
        connection = await store.write(limit_pages, 8)
        settlements = [store.enqueue(settle, i) for i in range(600)]
        with pytest.raises(StoreUnavailable, match="nothing was changed"):
            await store.write(insert, "hold")
        await until(lambda: attempts.count(0) >= 3)
        assert not any(settlement.done() for settlement in settlements)
        lift_limit(connection)
        await asyncio.gather(*settlements)

    with caplog.at_level(logging.WARNING, logger="server.store.writer"):
        with_store(path, scenario)

    assert names_in(path) == [f"n{i}" for i in range(600)]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_a_locked_database_fails_writes_and_delays_settlements(path):
    async def scenario(store):
        await store.write(models.database.execute_sql, "PRAGMA busy_timeout = 20")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            settlement = store.enqueue(insert, "settlement")
            with pytest.raises(StoreUnavailable, match="nothing was changed"):
                await store.write(insert, "hold")
            assert not settlement.done()
            other.execute("ROLLBACK")
        assert await settlement == "settlement"

    with_store(path, scenario)

    assert names_in(path) == ["settlement"]


def test_the_event_loop_runs_on_while_the_database_is_locked(path):
    async def scenario(store):
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            settlement = store.enqueue(insert, "settlement")
            longest = 0.0
            for _ in range(20):
                started = time.monotonic()
                await asyncio.sleep(0.01)
                longest = max(longest, time.monotonic() - started)
            other.execute("ROLLBACK")
        await settlement
        return longest

    assert with_store(path, scenario) < 1


def test_close_commits_what_is_queued_and_refuses_what_comes_later(path):
    async def scenario():
        store = Store.open(path)
        queued = [store.enqueue(insert, f"n{i}") for i in range(100)]
        await store.close()
        assert all(future.done() for future in queued)
        with pytest.raises(StoreUnavailable, match="stopping"):
            await store.write(insert, "late")
        with pytest.raises(StoreUnavailable, match="stopping"):
            await store.enqueue(insert, "late")

    asyncio.run(scenario())

    assert names_in(path) == [f"n{i}" for i in range(100)]
    assert "store-writer" not in {thread.name for thread in threading.enumerate()}


def test_close_gives_up_on_a_database_that_stays_locked(path):
    async def scenario():
        store = Store.open(path)
        await store.write(models.database.execute_sql, "PRAGMA busy_timeout = 20")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            settlement = store.enqueue(insert, "settlement")
            await store.close(patience_s=0.2)
        with pytest.raises(StoreUnavailable, match="cannot be used"):
            await settlement

    asyncio.run(scenario())

    assert names_in(path) == []


def test_a_nested_atomic_block_of_peewee_is_a_savepoint(path):
    def create():
        with models.database.atomic():
            insert("outer")
            try:
                with models.database.atomic():
                    insert_then_fail("inner")
            except Conflict:
                return "caught"

    async def scenario(store):
        return await store.write(create)

    assert with_store(path, scenario) == "caught"
    assert names_in(path) == ["outer"]
