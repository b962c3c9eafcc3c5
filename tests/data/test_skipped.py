import logging
import pickle
import threading

import pytest

from igpt_jax.data.skipped import Broken, SkippedImages, check_broken
from igpt_jax.errors import UserError


def feed(account: SkippedImages, broken: list[bool], epoch_length: int, share: float) -> None:
    for index, bad in enumerate(broken):
        item = Broken(index, f"file-{index}: bad") if bad else {"image": 0}
        assert account.accept(item, epoch_length=epoch_length, max_share=share) is not bad


def test_the_limit_is_exact_at_the_end_of_an_epoch():
    feed(SkippedImages(), [True] + [False] * 99, 100, 0.01)
    with pytest.raises(UserError, match=r"at most 1\.00% broken pictures, got 2 of 100"):
        feed(SkippedImages(), [False] * 98 + [True] * 2, 100, 0.01)


def test_an_unlucky_beginning_does_not_stop():
    feed(SkippedImages(), [True] + [False] * 30, 1000, 0.01)


def test_clear_damage_stops_after_twenty():
    account = SkippedImages()
    with pytest.raises(UserError, match="got 20 of 20"):
        feed(account, [True] * 1000, 1000, 0.01)
    assert (account.seen, account.broken, len(account.reasons)) == (20, 20, 20)


def test_small_sources_stop_after_an_epoch():
    with pytest.raises(UserError, match="got 3 of 3"):
        feed(SkippedImages(), [True] * 100, 3, 0.01)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_extreme_limits(share):
    if share == 1.0:
        feed(SkippedImages(), [True] * 50, 10, share)
    else:
        feed(SkippedImages(), [False] * 50, 10, share)
        with pytest.raises(UserError):
            feed(SkippedImages(), [False] * 25 + [True], 100, share)


def test_ten_files_are_listed_in_one_line():
    with pytest.raises(UserError) as raised:
        feed(SkippedImages(), [True] * 30, 30, 0.01)
    message = str(raised.value)
    assert "\n" not in message
    assert message.count(": bad") == 10
    assert "file-9: bad; and 10 more; repair or remove them" in message


def test_each_file_is_logged_once(caplog):
    caplog.set_level(logging.WARNING, "igpt_jax.data")
    account = SkippedImages()
    for _ in range(3):
        feed(account, [False, True, False], 3, 1.0)
    assert [r.getMessage() for r in caplog.records] == ["skipped a broken picture: file-1: bad"]
    assert account.reasons == ("file-1: bad",)
    assert (account.seen, account.broken) == (9, 3)


def test_threads_lose_no_count():
    account = SkippedImages()

    def work() -> None:
        feed(account, [True, False] * 500, 10**9, 1.0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (account.seen, account.broken) == (4000, 2000)


def test_markers_can_be_pickled():
    assert pickle.loads(pickle.dumps(Broken(1, "x"))) == Broken(1, "x")


def test_a_part_may_have_what_all_of_the_data_may():
    """Five of the hundred of this part, 5 % of it, are 1 % of the data set."""
    feed(SkippedImages(share=0.2), ([True] + [False] * 19) * 5, 100, 0.01)
    with pytest.raises(UserError, match=r"at most 1\.00% broken pictures, got 6 of 100"):
        feed(SkippedImages(share=0.2), [False] * 94 + [True] * 6, 100, 0.01)
    feed(SkippedImages(share=0.005), [True] * 50, 50, 0.01)  # others tell whether it is too much


def test_clear_damage_stops_a_part_after_twenty():
    with pytest.raises(UserError, match="got 20 of 20"):
        feed(SkippedImages(share=1 / 64), [True] * 1000, 1000, 0.01)


def test_accounts_of_parts_are_judged_together():
    check_broken(5, 500, [], 0.01)
    with pytest.raises(UserError, match=r"got 6 of 500: a: cut; b: cut; and 4 more; repair"):
        check_broken(6, 500, ["a: cut", "b: cut"], 0.01)
