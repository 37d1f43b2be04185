"""Pictures kept for a person to label: the switch, the bounds, labels, and the data set they grow into."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npt_core.errors import OverloadedError
from tests.support.api import coloured_zip, png
from worker import feedback as feedback_module
from worker.errors import ConflictError, CorruptRecordError, FeedbackError, NotFoundError, StoreFullError
from worker.feedback import FeedbackSettings, Unsure
from worker.ids import new_id
from worker.labelled import grow
from worker.records import ModelRecord, utcnow
from worker.service import Services
from worker.store.local import TEMPORARY

ON = FeedbackSettings(enabled=True, below=0.9)


@pytest.fixture
def model(services: Services) -> str:
    return add_model(services)


def add_model(services: Services) -> str:
    record = ModelRecord(id=new_id("model"), created_at=utcnow(), backbone="none", method="coop")
    services.store.put(f"models/{record.id}/model.json", record.to_json())
    return record.id


def unsure(number: int, size: int = 10) -> Unsure:
    picture = str(number).encode().ljust(size, b".")
    return Unsure(filename=f"{number}.png", picture=picture, answer=(("cat", 0.4), ("dog", 0.35)))


def kept(services: Services, model: str) -> list[str]:
    return [one.filename for one in services.feedback.list(model, limit=200).items]


class TestSwitch:
    def test_is_off_until_somebody_switches_it_on(self, services: Services, model: str) -> None:
        assert services.feedback.keep(model, [unsure(1)]) == 0
        assert services.feedback.state(model).settings.enabled is False
        assert not services.store.exists(f"feedback/{model}")
        services.feedback.switch(model, ON)
        assert services.feedback.keep(model, [unsure(1)]) == 1
        services.feedback.switch(model, ON.model_copy(update={"enabled": False}))
        assert services.feedback.keep(model, [unsure(2)]) == 0
        assert kept(services, model) == ["1.png"]

    def test_clearing_switches_off_and_leaves_nothing_on_the_disk(self, services: Services, model: str) -> None:
        services.feedback.switch(model, ON)
        services.feedback.keep(model, [unsure(1)])
        assert services.feedback.clear(model)
        assert services.feedback.state(model).items == 0
        assert services.feedback.keep(model, [unsure(1)]) == 0
        assert not services.store.exists(f"feedback/{model}")

    def test_what_waits_while_everything_is_forgotten_is_not_kept(
        self, services: Services, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        services.feedback.switch(model, ON)
        monkeypatch.setattr(services.store, "ensure_free", lambda _: services.feedback.clear(model))
        assert services.feedback.keep(model, [unsure(1)]) == 0
        assert not services.store.exists(f"feedback/{model}")

    def test_a_deleted_model_takes_its_feedback_along(self, services: Services, model: str) -> None:
        services.feedback.switch(model, ON)
        services.feedback.keep(model, [unsure(1)])
        services.catalogue.delete(model)
        assert not services.store.exists(f"feedback/{model}")
        with pytest.raises(NotFoundError):
            services.feedback.switch(model, ON)
        with pytest.raises(NotFoundError):
            services.feedback.list(model)

    def test_nobody_knows_other_ids(self, services: Services, model: str) -> None:
        for item in ("item_" + "0" * 26, "../x", ""):
            with pytest.raises(NotFoundError):
                services.feedback.get(model, item)
        with pytest.raises(NotFoundError):
            services.feedback.state("model_" + "0" * 26)


class TestKeeping:
    def test_the_same_picture_is_kept_once_with_what_was_said_first(self, services: Services, model: str) -> None:
        services.feedback.switch(model, ON)
        assert services.feedback.keep(model, [unsure(1), unsure(1)]) == 1
        assert services.feedback.keep(model, [unsure(1), unsure(2)]) == 1
        (newest, first) = services.feedback.list(model).items
        assert (newest.filename, first.filename) == ("2.png", "1.png")
        assert [(one.label, one.probability) for one in first.answer] == [("cat", 0.4), ("dog", 0.35)]
        item, picture = services.feedback.get(model, first.id)
        assert picture == unsure(1).picture
        assert item.sha256 == hashlib.sha256(picture).hexdigest()

    def test_pages_go_from_the_newest_back(self, services: Services, model: str) -> None:
        services.feedback.switch(model, ON)
        services.feedback.keep(model, [unsure(number) for number in range(7)])
        names, cursor = [], None
        for _ in range(3):
            page = services.feedback.list(model, limit=3, cursor=cursor)
            names += [one.filename for one in page.items]
            cursor = page.next_cursor
        assert names == [f"{number}.png" for number in range(6, -1, -1)]
        assert cursor is None

    def test_too_old_ones_go_when_the_store_is_swept(
        self, services: Services, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        services.feedback.switch(model, ON.model_copy(update={"max_days": 2}))
        services.feedback.keep(model, [unsure(1)])
        assert services.retention.sweep() == []
        monkeypatch.setattr(feedback_module, "utcnow", lambda: utcnow() + timedelta(days=2, seconds=5))
        assert [waste.kind for waste in services.retention.sweep()] == ["feedback"]
        assert kept(services, model) == []

    def test_what_goes_makes_room_on_the_disk(self, services: Services, model: str) -> None:
        services.feedback.switch(model, ON)
        services.feedback.keep(model, [unsure(number, 100_000) for number in range(10)])
        path = services.store.path(f"feedback/{model}/items.sqlite3")
        assert path.stat().st_size > 1_000_000
        services.feedback.switch(model, ON.model_copy(update={"max_items": 1}))
        assert path.stat().st_size < 200_000

    def test_a_write_that_was_cut_off_is_swept(self, services: Services, model: str) -> None:
        services.feedback.switch(model, ON)
        left = services.store.path(f"feedback/{model}") / f"{TEMPORARY}x"
        left.write_bytes(b"x")
        assert services.store.sweep(-1) == 1
        assert not left.exists()

    def test_a_full_disk_keeps_nothing(self, open_floor: Callable[..., Services]) -> None:
        services = open_floor(min_free_bytes=1 << 60)
        model = add_model(open_floor())
        open_floor().feedback.switch(model, ON)
        with pytest.raises(StoreFullError):
            services.feedback.keep(model, [unsure(1)])

    def test_a_file_in_use_is_busy_and_not_damaged(
        self, services: Services, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        services.feedback.switch(model, ON)
        services.feedback.keep(model, [unsure(1)])
        monkeypatch.setattr(feedback_module, "BUSY_S", 0.01)
        path = services.store.path(f"feedback/{model}/items.sqlite3")
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(OverloadedError, match="try again"):
                services.feedback.state(model)
        assert services.feedback.state(model).items == 1

    def test_a_damaged_file_is_an_error_of_its_own_and_can_be_cleared(self, services: Services, model: str) -> None:
        services.feedback.switch(model, ON)
        services.feedback.keep(model, [unsure(1)])
        Path(services.store.path(f"feedback/{model}/items.sqlite3")).write_bytes(b"no database" * 1000)
        with pytest.raises(CorruptRecordError, match="clear it"):
            services.feedback.list(model)
        assert services.retention.sweep() == []  # what cannot be read is for a person to look at
        assert services.feedback.clear(model)
        assert services.feedback.state(model).items == 0

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_bounds_hold_whatever_happens_and_labels_outlive_the_rest(
        self, open_floor: Callable[..., Services], data: st.DataObject
    ) -> None:
        room, most = data.draw(st.integers(40, 200)), data.draw(st.integers(1, 8))
        services = open_floor(feedback_bytes=room)
        model = add_model(services)
        services.feedback.switch(model, ON.model_copy(update={"max_items": most}))
        order: list[tuple[int, int, bool]] = []  # what should be there, oldest first: number, bytes, labelled
        for number in range(data.draw(st.integers(1, 15))):
            size = data.draw(st.integers(4, 60))
            services.feedback.keep(model, [unsure(number, size)])
            order.append((number, size, False))
            order = allowed(order, most, room)
            if order and data.draw(st.booleans()):
                chosen = data.draw(st.sampled_from(order))
                item = next(
                    one for one in services.feedback.list(model, limit=50).items if one.filename == f"{chosen[0]}.png"
                )
                services.feedback.label(model, {item.id: "cat"})
                order = [(*one[:2], one[2] or one[0] == chosen[0]) for one in order]
        assert kept(services, model) == [f"{number}.png" for number, _, _ in reversed(order)]
        state = services.feedback.state(model)
        assert state.items == len(order) <= most
        assert state.nbytes == sum(size for _, size, _ in order) <= room
        assert state.labelled == sum(labelled for _, _, labelled in order)


def allowed(order: list[tuple[int, int, bool]], most: int, room: int) -> list[tuple[int, int, bool]]:
    """A plain restatement: those with a label stay first, then the newest; the first that does not fit ends it."""
    staying, used = set(), 0
    for number, size, _ in sorted(order, key=lambda one: (not one[2], -one[0]))[:most]:
        used += size
        if used > room:
            break
        staying.add(number)
    return [one for one in order if one[0] in staying]


class TestLabels:
    def test_are_kept_all_or_none(self, services: Services, model: str) -> None:
        services.feedback.switch(model, ON)
        services.feedback.keep(model, [unsure(1), unsure(2)])
        second, first = (one.id for one in services.feedback.list(model).items)
        with pytest.raises(FeedbackError) as caught:
            services.feedback.label(model, {first: "cat", second: "do\ng", "item_" + "0" * 26: "cat"})
        assert {fault.path for fault in caught.value.faults} == {second, "item_" + "0" * 26}
        assert services.feedback.state(model).labelled == 0
        assert services.feedback.label(model, {first: "cat", second: "dog"}) == 2
        assert [one.label for one in services.feedback.list(model, labelled=True).items] == ["dog", "cat"]
        services.feedback.label(model, {first: None})
        assert [one.id for one in services.feedback.list(model, labelled=False).items] == [first]

    def test_without_any_item_each_is_named(self, services: Services, model: str) -> None:
        with pytest.raises(FeedbackError, match="1 of 1 labels"):
            services.feedback.label(model, {"item_" + "0" * 26: "cat"})

    def test_an_item_can_be_forgotten(self, services: Services, model: str) -> None:
        services.feedback.switch(model, ON)
        services.feedback.keep(model, [unsure(1)])
        item = services.feedback.list(model).items[0].id
        services.feedback.delete(model, item)
        with pytest.raises(NotFoundError):
            services.feedback.delete(model, item)
        data = services.store.path(f"feedback/{model}/items.sqlite3").read_bytes()
        assert unsure(1).picture not in data


class TestGrowing:
    def test_labelled_pictures_become_part_of_a_new_data_set(
        self, services: Services, model: str, tmp_path: Path
    ) -> None:
        part = services.store.part()
        part.write_bytes(coloured_zip(3))
        dataset, _ = services.datasets.add(part, "c.zip")
        services.feedback.switch(model, ON)
        pictures = {"odd": png("yellow", 900), "new": png("red", 901), "known": png("red", 0), "none": png("red", 902)}
        services.feedback.keep(
            model,
            [Unsure(filename=name, picture=data, answer=(("red", 0.4),)) for name, data in pictures.items()],
        )
        with pytest.raises(ConflictError, match="Nothing is labelled"):
            list(services.feedback.labelled(model))
        ids = {one.filename: one.id for one in services.feedback.list(model).items}
        services.feedback.label(model, {ids["odd"]: 'a "new", class', ids["new"]: "red", ids["known"]: "green"})
        record, created = grow(services.datasets, services.store, dataset.id, services.feedback.labelled(model))
        assert created
        assert record.parent == dataset.id
        assert record.change == {"removed": 0, "relabelled": 1, "added": 2, "known": 0}
        assert record.counts["train"] == {"red": 3, "green": 4, "blue": 3, 'a "new", class': 1}
        assert not list((services.settings.data_dir / "uploads").glob("*"))
        again, created = grow(services.datasets, services.store, record.id, services.feedback.labelled(model))
        assert (again.id, created) == (record.id, False)
