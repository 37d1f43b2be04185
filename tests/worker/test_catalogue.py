"""Versions, aliases, lineage, deletion: the real store, without a job where none is needed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from npt_core.errors import ConfigError
from tests.support.in_process import runner
from worker.aliases import MAX_ALIASES, AliasRepository
from worker.errors import ConflictError, NotFoundError, StoreFullError
from worker.ids import new_id
from worker.models import ModelRepository
from worker.records import ModelDraft, ModelRecord
from worker.service import Services
from worker.store.local import LocalStore

GHOST = "model_" + "0" * 26


def prepare(store: LocalStore, name: str | None, text: str = "{}", parent: str | None = None) -> tuple[str, str]:
    """A model ready to be moved: where it lies, and its id."""
    model_id = new_id("model")
    source = f"jobs/{model_id}"
    folder = store.path(source)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(text)
    draft = ModelDraft(name=name, backbone="b", method="m", parent=parent, labels=("x", "y"))
    ModelRepository(store).prepare(folder, draft, model_id=model_id, job_id=None)
    return source, model_id


def make(store: LocalStore, name: str | None, parent: str | None = None) -> ModelRecord:
    models = ModelRepository(store)
    source, model_id = prepare(store, name, parent=parent)
    assert models.promote(source, model_id)
    return models.get(model_id)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "data")


@pytest.fixture
def aliases(store: LocalStore) -> AliasRepository:
    return AliasRepository(store, ModelRepository(store))


class TestVersions:
    def test_are_numbered_within_a_name(self, store: LocalStore) -> None:
        found = [make(store, name).version for name in ("digits", "digits", "letters", None, "digits", "letters")]
        assert found == [1, 2, 1, None, 3, 2]

    def test_are_one_for_names_that_read_the_same(self, store: LocalStore) -> None:
        assert make(store, "Gem\u00fcse").version == 1
        assert make(store, "Gemu\u0308se").version == 2  # as macOS writes it
        assert make(store, "gem\u00fcse").version == 1

    def test_a_number_is_not_given_again(self, store: LocalStore) -> None:
        models = ModelRepository(store)
        first, second = make(store, "digits"), make(store, "digits")
        models.delete(second.id)
        models.delete(first.id)
        assert make(store, "digits").version == 3

    def test_many_at_once_get_each_its_own(self, store: LocalStore) -> None:
        prepared = [prepare(store, f"name {n % 3}") for n in range(60)]
        start = threading.Barrier(12)

        def move(part: int) -> None:
            models = ModelRepository(store)
            start.wait()
            for source, model_id in prepared[part % 4 :: 4]:  # three threads fight for each
                models.promote(source, model_id)

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(move, range(12)))
        models = ModelRepository(store)
        for n in range(3):
            versions = [models.get(model_id).version for _, model_id in prepared[n::3]]
            assert sorted(versions) == list(range(1, 21))

    def test_who_dies_between_the_number_and_the_move_leaves_no_gap(
        self, store: LocalStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        models = ModelRepository(store)
        source, model_id = prepare(store, "digits")
        with monkeypatch.context() as patch:

            def die(*_: object, **__: object) -> bool:
                raise StoreFullError("dead")

            patch.setattr(LocalStore, "move", die)
            with pytest.raises(StoreFullError):
                models.promote(source, model_id)
        assert models.list().items == []
        assert make(store, "digits").version == 2  # the first number is taken
        assert models.promote(source, model_id)
        assert models.get(model_id).version == 1
        assert not models.promote(source, model_id)

    def test_of_a_name_alone_are_listed_in_pages(self, store: LocalStore) -> None:
        made = [make(store, "digits" if n % 2 else "letters") for n in range(10)]
        models = ModelRepository(store)
        models.delete(made[5].id)
        wanted = [record.id for record in reversed(made[1::2]) if record.id != made[5].id]
        found: list[str] = []
        cursor = None
        while True:
            page = models.list(name="digits", limit=2, cursor=cursor)
            found += [record.id for record in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert found == wanted
        assert models.list(name="no such").items == []

    def test_a_tuning_s_model_gets_one(self, services: Services) -> None:
        for number in (1, 2):
            job, _ = services.start_job("sleep", {"steps": 1, "pause": 0}, name="digits")
            runner(services).run_next()
            assert services.models.get(services.jobs.get(job.id).model_id or "").version == number


class TestAliases:
    def test_point_and_move(self, store: LocalStore, aliases: AliasRepository) -> None:
        one, two = make(store, "d"), make(store, "d")
        made, created = aliases.put("champion", one.id)
        assert (created, made.previous) == (True, None)
        again, created = aliases.put("champion", one.id)
        assert (created, again) == (False, made)
        moved, created = aliases.put("champion", two.id)
        assert (created, moved.model_id, moved.previous) == (False, two.id, one.id)
        assert moved.created_at == made.created_at <= moved.updated_at
        assert aliases.get("champion") == moved
        assert (aliases.of(one.id), aliases.of(two.id)) == ((), ("champion",))
        aliases.delete("champion")
        for call in (aliases.get, aliases.delete):
            with pytest.raises(NotFoundError, match="champion"):
                call("champion")

    def test_files_from_before_they_had_terms_are_read(self, store: LocalStore, aliases: AliasRepository) -> None:
        model_id = make(store, "d").id
        made, _ = aliases.put("champion", model_id)
        (name,) = store.names("aliases")
        facts = json.loads(store.get(f"aliases/{name}"))
        assert facts.keys().isdisjoint({"reject_below", "priors"})  # nothing stated, nothing written
        store.put(f"aliases/{name}", json.dumps({key: facts[key] for key in facts}).encode())
        assert aliases.get("champion") == made
        assert (made.reject_below, made.priors) == (None, None)

    def test_terms_stay_until_others_are_put(self, store: LocalStore, aliases: AliasRepository) -> None:
        model_id = make(store, "d").id
        labels = aliases._models.get(model_id).labels
        priors = dict.fromkeys(labels, 1.0)
        made, _ = aliases.put("champion", model_id, reject_below=0.5, priors=priors)
        assert (made.reject_below, made.priors) == (0.5, priors)
        same, _ = aliases.put("champion", model_id)
        assert same == made
        changed, _ = aliases.put("champion", model_id, reject_below=None)
        assert (changed.reject_below, changed.priors, changed.previous) == (None, priors, None)
        assert changed.updated_at >= made.updated_at
        with pytest.raises(ConfigError, match="nobody"):
            aliases.put("champion", model_id, priors={"nobody": 1.0})
        assert aliases.get("champion") == changed

    def test_need_a_model(self, aliases: AliasRepository) -> None:
        for model_id in (GHOST, "nothing", "../x", "job_" + "0" * 26):
            with pytest.raises(NotFoundError):
                aliases.put("champion", model_id)
        assert aliases.list().items == []

    @pytest.mark.parametrize(
        "alias", ["", "A", "-a", ".a", "a b", "a/b", "../a", "ä", "a" * 64, "zero-shot", GHOST, "model_x", "a\n"]
    )
    def test_are_plain_words(self, store: LocalStore, aliases: AliasRepository, alias: str) -> None:
        model_id = make(store, None).id
        with pytest.raises(ConfigError, match="alias"):
            aliases.put(alias, model_id)
        with pytest.raises(NotFoundError):
            aliases.get(alias)

    def test_are_listed_by_name_in_pages(self, store: LocalStore, aliases: AliasRepository) -> None:
        model_id = make(store, None).id
        names = ["b", "a.1", "c-3", "a", "champion"]
        for name in names:
            aliases.put(name, model_id)
        page = aliases.list(limit=3)
        rest = aliases.list(limit=3, cursor=page.next_cursor)
        assert [record.alias for record in page.items + rest.items] == sorted(names)
        assert rest.next_cursor is None

    def test_are_not_without_end(
        self, store: LocalStore, aliases: AliasRepository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("worker.aliases.MAX_ALIASES", 2)
        model_id = make(store, None).id
        aliases.put("a", model_id)
        aliases.put("b", model_id)
        with pytest.raises(ConflictError, match="delete one"):
            aliases.put("c", model_id)
        aliases.put("a", make(store, None).id)  # moving is always possible
        assert MAX_ALIASES >= 1000

    def test_readers_see_one_model_or_the_other(self, store: LocalStore, aliases: AliasRepository) -> None:
        ids = [make(store, "d").id for _ in range(2)]
        aliases.put("champion", ids[0])
        done = threading.Event()
        seen: set[str] = set()

        def read() -> None:
            while not done.is_set():
                seen.add(aliases.get("champion").model_id)

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for number in range(200):
            aliases.put("champion", ids[number % 2])
        done.set()
        for reader in readers:
            reader.join()
        assert seen <= set(ids)

    def test_a_damaged_one_is_left_out(self, store: LocalStore, aliases: AliasRepository) -> None:
        model_id = make(store, None).id
        aliases.put("a", model_id)
        store.put("aliases/broken.json", b"{")
        assert [record.alias for record in aliases.list().items] == ["a"]


class TestNames:
    def test_an_id_and_an_alias_mean_a_model(self, services: Services) -> None:
        record = make(services.store, "d")
        services.aliases.put("champion", record.id)
        assert services.catalogue.resolve(record.id) == record == services.catalogue.resolve("champion")

    @pytest.mark.parametrize("name", ["nothing", GHOST, "zero-shot", "../x", "", "a\ud800"])
    def test_others_mean_none(self, services: Services, name: str) -> None:
        with pytest.raises(NotFoundError):
            services.catalogue.resolve(name)

    def test_an_alias_of_nothing_says_so(self, services: Services) -> None:
        record = make(services.store, "d")
        services.aliases.put("champion", record.id)
        services.models.delete(record.id)  # as a backup brought back in part would have it
        with pytest.raises(NotFoundError, match="'champion' points to"):
            services.catalogue.resolve("champion")


class TestLineage:
    def test_goes_from_parent_to_parent(self, services: Services) -> None:
        first = make(services.store, "d")
        second = make(services.store, "d", parent=first.id)
        third = make(services.store, "d", parent=second.id)
        assert list(services.catalogue.ancestors(third)) == [(second.id, second), (first.id, first)]

    def test_ends_where_a_model_is_gone(self, services: Services) -> None:
        first = make(services.store, "d")
        second = make(services.store, "d", parent=first.id)
        third = make(services.store, "d", parent=second.id)
        services.catalogue.delete(second.id)
        assert list(services.catalogue.ancestors(third)) == [(second.id, None)]

    def test_of_a_circle_ends(self, services: Services) -> None:
        """No tuning makes one; a stranger's manifest may say it."""
        record = make(services.store, "d", parent="model-of-another-server")
        loop = record.model_copy(update={"parent": record.id})
        assert list(services.catalogue.ancestors(loop)) == []
        assert list(services.catalogue.ancestors(record)) == [("model-of-another-server", None)]


class TestDelete:
    def test_not_while_an_alias_points_to_it(self, services: Services) -> None:
        record = make(services.store, "d")
        services.aliases.put("champion", record.id)
        services.aliases.put("candidate", record.id)
        with pytest.raises(ConflictError, match="'candidate', 'champion'"):
            services.catalogue.delete(record.id)
        services.aliases.put("champion", make(services.store, "d").id)
        services.aliases.delete("candidate")
        services.catalogue.delete(record.id)

    @pytest.mark.parametrize("where", ["parent", "models", "deep"])
    def test_not_while_a_job_needs_it(self, services: Services, where: str) -> None:
        record = make(services.store, "d")
        config: dict[str, object] = {
            "parent": {"parent": record.id},
            "models": {"models": ["zero-shot", record.id]},
            "deep": {"a": {"b": [{"c": record.id}]}},
        }[where]  # type: ignore[assignment]
        job, _ = services.start_job("sleep", config | {"steps": 1, "pause": 0})
        with pytest.raises(ConflictError, match=job.id):
            services.catalogue.delete(record.id)
        runner(services).run_next()
        services.catalogue.delete(record.id)

    def test_a_job_that_needs_it_comes_first_or_is_refused(self, services: Services) -> None:
        with pytest.raises(NotFoundError, match=GHOST):
            services.start_job("sleep", {"parent": GHOST})
        for _ in range(20):
            record = make(services.store, "d")
            start = threading.Barrier(2)

            def attempt(call: Callable[[], object], start: threading.Barrier = start) -> bool:
                start.wait()
                try:
                    call()
                except (ConflictError, NotFoundError):
                    return False
                return True

            with ThreadPoolExecutor(2) as pool:
                deleted = pool.submit(attempt, lambda record=record: services.catalogue.delete(record.id))
                begun = pool.submit(attempt, lambda record=record: services.start_job("sleep", {"parent": record.id}))
                assert deleted.result() != begun.result()

    def test_its_children_do_not_hold_it(self, services: Services) -> None:
        parent = make(services.store, "d")
        child = make(services.store, "d", parent=parent.id)
        services.catalogue.delete(parent.id)
        assert services.models.get(child.id).parent == parent.id

    def test_takes_everything_along(self, services: Services) -> None:
        record = make(services.store, "d")
        services.store.put(f"exports/{record.id}/1.onnx", b"x")
        services.catalogue.delete(record.id)
        assert services.store.names("exports") == []
        assert services.models.by_content(record.content or "") is None
        with pytest.raises(NotFoundError):
            services.catalogue.delete(record.id)

    def test_or_an_alias_one_of_the_two_wins(self, open_floor: Callable[..., Services]) -> None:
        services = open_floor()
        for _ in range(20):
            record = make(services.store, "d")
            start = threading.Barrier(2)

            def attempt(call: Callable[[], object], start: threading.Barrier = start) -> bool:
                start.wait()
                try:
                    call()
                except (ConflictError, NotFoundError):
                    return False
                return True

            with ThreadPoolExecutor(2) as pool:
                deleted = pool.submit(attempt, lambda record=record: services.catalogue.delete(record.id))
                pointed = pool.submit(attempt, lambda record=record: services.aliases.put("champion", record.id))
                assert deleted.result() != pointed.result()
            if pointed.result():
                services.aliases.delete("champion")


class Registry(RuleBasedStateMachine):
    """Whatever happens in whatever order: numbers rise, aliases point to models that are there."""

    names = st.sampled_from(["digits", "letters"])
    words = st.sampled_from(["champion", "candidate"])

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.store = LocalStore(Path(self.folder.name))
        self.models = ModelRepository(self.store)
        self.aliases = AliasRepository(self.store, self.models)
        self.last = {"digits": 0, "letters": 0}
        self.living: dict[str, tuple[str, int]] = {}
        self.pointing: dict[str, str] = {}

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(name=names)
    def tune(self, name: str) -> None:
        record = make(self.store, name)
        self.last[name] += 1
        assert record.version == self.last[name]
        self.living[record.id] = (name, self.last[name])

    @precondition(lambda self: self.living)
    @rule(data=st.data(), word=words)
    def point(self, data: st.DataObject, word: str) -> None:
        model_id = data.draw(st.sampled_from(sorted(self.living)))
        record, created = self.aliases.put(word, model_id)
        assert created == (word not in self.pointing)
        if not created and self.pointing[word] != model_id:
            assert record.previous == self.pointing[word]
        self.pointing[word] = model_id

    @rule(word=words)
    def unpoint(self, word: str) -> None:
        if word in self.pointing:
            self.aliases.delete(word)
            del self.pointing[word]
        else:
            with pytest.raises(NotFoundError):
                self.aliases.delete(word)

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        model_id = data.draw(st.sampled_from(sorted(self.living)))
        if model_id not in self.pointing.values():
            self.models.delete(model_id)
            del self.living[model_id]

    @invariant()
    def lists_say_what_is(self) -> None:
        if not hasattr(self, "living"):
            return
        assert {record.alias: record.model_id for record in self.aliases.list().items} == self.pointing
        for name in self.last:
            found = [(record.id, record.version) for record in self.models.list(name=name).items]
            wanted = sorted(((k, v) for k, (n, v) in self.living.items() if n == name), reverse=True)
            assert found == wanted

    @invariant()
    def claims_say_whose_they_are(self) -> None:
        if hasattr(self, "store"):
            for folder in self.store.names("names"):
                for claim in self.store.names(f"names/{folder}"):
                    assert json.loads(self.store.get(f"names/{folder}/{claim}"))["name"] in self.last


TestRegistry = Registry.TestCase
TestRegistry.settings = hypothesis_settings(max_examples=25, stateful_step_count=20, deadline=None)
