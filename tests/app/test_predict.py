"""POST /predict: answers, options, what cannot be read, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.forms import Form
from app.problems import Problem
from app.routes.predict import parse_question
from app.settings import AppSettings
from tests.support.api import Api, archive, encoded, png, running_api, store_model
from tests.support.pictures import picture


@pytest.fixture(scope="module")
def model(api: Api, towers: tuple[str, str]) -> str:
    return store_model(api.services, towers[0])


@pytest.fixture(scope="module")
def own_context(api: Api, towers: tuple[str, str]) -> str:
    """A model with one context for each class: it can take no other names."""
    return store_model(api.services, towers[0], name="csc", class_specific=True)


@pytest.fixture(scope="module")
def elsewhere(api: Api, towers: tuple[str, str]) -> str:
    """A model on the second backbone."""
    return store_model(api.services, towers[1])


def ask(api: Api, *images: bytes, status: int = 200, **fields: Any) -> dict[str, Any]:
    files = [("images", (f"{n}.png", image, "image/png")) for n, image in enumerate(images)]
    answer = api.client.post("/predict", files=files, data=fields)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    return body


def faults(body: dict[str, Any]) -> set[str]:
    return {entry["path"] for entry in body["errors"]}


def test_what_is_read_later_is_looked_at_again(api: Api, towers: tuple[str, str]) -> None:
    """A model that answers keeps what it needs; new names have it read its file, which may be damaged since."""
    model = store_model(api.services, towers[0], name="damaged-since")
    before = ask(api, png(), model=model)
    file = api.services.models.folder(model) / "classifier.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        refused = ask(api, png(), model=model, labels='["a new name", "another"]', status=500)
        assert refused["code"] == "corrupt-record"
        assert model in refused["detail"]
        assert ask(api, png(), model=model) == before
    finally:
        file.write_bytes(whole)
    ask(api, png(), model=model, labels='["a new name", "another"]')


class TestAnswers:
    def test_in_the_order_of_the_images(self, api: Api, model: str) -> None:
        images = [png(colour, n) for n, colour in enumerate(("red", "blue", "green", "red"))]
        together = ask(api, *images, model=model)
        assert together["model"] == model
        assert together["backbone"] == "tiny"
        assert [one["filename"] for one in together["predictions"]] == ["0.png", "1.png", "2.png", "3.png"]
        for image, one in zip(images, together["predictions"], strict=True):
            alone = ask(api, image, model=model)["predictions"][0]
            assert [t["label"] for t in alone["top"]] == [t["label"] for t in one["top"]]
            assert alone["top"][0]["probability"] == pytest.approx(one["top"][0]["probability"], abs=1e-5)

    def test_are_probabilities_best_first(self, api: Api, model: str) -> None:
        top = ask(api, png(), model=model)["predictions"][0]["top"]
        assert {t["label"] for t in top} == {"red", "green", "blue"}
        assert sum(t["probability"] for t in top) == pytest.approx(1, abs=1e-5)
        assert [t["probability"] for t in top] == sorted((t["probability"] for t in top), reverse=True)
        assert all(-1 <= t["similarity"] <= 1 for t in top)

    def test_equal_the_library_s(self, api: Api, model: str, towers: tuple[str, str]) -> None:
        import torch

        from npt_core.classifier import Classifier
        from npt_core.clip import load_backbone
        from npt_core.data.images import decode_image

        backbone = load_backbone(towers[0], device="cpu")
        classifier = Classifier.load(api.services.models.folder(model), backbone)
        image = png("blue", 7)
        pixels = torch.stack([backbone.load_pixels(decode_image(image, target=max(backbone.image_size)))])
        expected = classifier.predict(backbone.encode_images(pixels))
        found = {t["label"]: t["probability"] for t in ask(api, image, model=model)["predictions"][0]["top"]}
        for label, probability in zip(expected.labels, expected.probabilities[0].tolist(), strict=True):
            assert found[label] == pytest.approx(probability, abs=1e-5)

    def test_top_k(self, api: Api, model: str) -> None:
        assert len(ask(api, png(), model=model, top_k="1")["predictions"][0]["top"]) == 1
        assert len(ask(api, png(), model=model, top_k="50")["predictions"][0]["top"]) == 3

    def test_reject_below(self, api: Api, model: str) -> None:
        probability = ask(api, png(), model=model)["predictions"][0]["top"][0]["probability"]
        assert ask(api, png(), model=model, reject_below=str(probability * 0.99))["predictions"][0]["rejected"] is False
        assert ask(api, png(), model=model, reject_below="1")["predictions"][0]["rejected"] is True

    def test_the_same_picture_twice_gets_the_same_answer(self, api: Api, model: str) -> None:
        others = [png("red", n) for n in range(5)]
        found = ask(api, png("green", 9), *others, png("green", 9), model=model)["predictions"]
        assert found[0]["top"] == found[-1]["top"]

    def test_a_raw_image_with_query_parameters(self, api: Api, model: str) -> None:
        answer = api.client.post(
            "/predict",
            params={"model": model, "top_k": 2, "filename": "x.jpg"},
            content=encoded(picture((200, 30, 30), 3), "JPEG"),
            headers={"Content-Type": "image/jpeg"},
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["predictions"][0]["filename"] == "x.jpg"
        assert len(answer.json()["predictions"][0]["top"]) == 2

    def test_under_v1(self, api: Api, model: str) -> None:
        answer = api.client.post("/v1/predict", files={"images": ("a.png", png())}, data={"model": model})
        assert answer.status_code == 200

    def test_many_clients_at_once(self, api: Api, model: str, elsewhere: str) -> None:
        def one(number: int) -> str:
            chosen = model if number % 2 else elsewhere
            return ask(api, png("red", number % 4), model=chosen)["model"]

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(one, range(64))) == [model if n % 2 else elsewhere for n in range(64)]
        assert "npt_predict_batch_size_bucket" in api.client.get("/metrics").text


class TestSeveralModels:
    def test_answer_in_their_order_and_encode_once(
        self, api: Api, model: str, own_context: str, elsewhere: str
    ) -> None:
        found = ask(api, png(), png("blue"), model=[elsewhere, model, own_context])["results"]
        assert [one["model"] for one in found] == [elsewhere, model, own_context]
        assert [one["backbone"] for one in found] == ["other", "tiny", "tiny"]
        alone = ask(api, png(), png("blue"), model=model)["predictions"]
        for one, other in zip(found[1]["predictions"], alone, strict=True):
            assert [t["label"] for t in one["top"]] == [t["label"] for t in other["top"]]

    def test_whose_backbones_do_not_fit_together(
        self, make_settings: Callable[..., AppSettings], towers: tuple[str, str]
    ) -> None:
        settings = make_settings(backbone=towers[0], backbones=(towers[1],), backbone_memory_bytes=1)
        with running_api(settings) as small:
            here, there = (store_model(small.services, tower) for tower in towers)
            for _ in range(2):  # each drives the other out
                answers = ask(small, png(), model=[here, there])["results"]
                assert [one["model"] for one in answers] == [here, there]

    def test_beside_zero_shot(self, api: Api, model: str) -> None:
        found = ask(api, png(), model=[model, "zero-shot"], labels='["red", "green", "blue"]')["results"]
        assert [one["model"] for one in found] == [model, "zero-shot"]


class TestNames:
    def test_zero_shot(self, api: Api) -> None:
        labels = ["a red thing", "a blue thing", "a green thing"]
        found = ask(api, png(), model="zero-shot", labels=json.dumps(labels))
        assert found["model"] == "zero-shot"
        assert found["backbone"] == "tiny"
        assert {t["label"] for t in found["predictions"][0]["top"]} == set(labels)

    def test_zero_shot_on_another_backbone(self, api: Api) -> None:
        assert ask(api, png(), model="zero-shot", labels='["a", "b"]', backbone="other")["backbone"] == "other"
        body = ask(api, png(), model="zero-shot", labels='["a", "b"]', backbone="ViT-L-14/openai", status=422)
        assert body["code"] == "unknown-backbone"
        assert "tiny, other" in body["detail"]

    def test_zero_shot_needs_labels(self, api: Api) -> None:
        assert ask(api, png(), model="zero-shot", status=422)["code"] == "no-labels"

    def test_new_names_with_the_learned_prompt(self, api: Api, model: str) -> None:
        found = ask(api, png(), model=model, labels='["red", "violet"]')["predictions"][0]["top"]
        assert {t["label"] for t in found} == {"red", "violet"}

    def test_some_of_its_own_names(self, api: Api, own_context: str) -> None:
        found = ask(api, png(), model=own_context, labels='["blue", "red"]')["predictions"][0]["top"]
        assert {t["label"] for t in found} == {"red", "blue"}

    def test_a_model_with_a_context_for_each_class_takes_no_new_names(self, api: Api, own_context: str) -> None:
        body = ask(api, png(), model=own_context, labels='["red", "violet"]', status=422)
        assert body["code"] == "incompatible-config"
        assert "context" in body["detail"]

    @pytest.mark.parametrize("labels", [
        '["\\ud800", "a"]', "not json", '{"a": 1}', '["one"]', '["a", "a"]', '["a", ""]', "[1, 2]",
        json.dumps(["x" * 201, "y"]),
    ])  # fmt: skip
    def test_unusable_names(self, api: Api, model: str, labels: str) -> None:
        body = ask(api, png(), model=model, labels=labels, status=422)
        assert any(path.startswith("labels") for path in faults(body))

    def test_too_many_names(self, api: Api, model: str) -> None:
        labels = json.dumps([f"name {n}" for n in range(1001)])
        assert faults(ask(api, png(), model=model, labels=labels, status=422)) == {"labels"}

    def test_a_name_that_is_too_long_for_the_tower(self, api: Api, model: str) -> None:
        body = ask(api, png(), model=model, labels=json.dumps(["word " * 30, "b"]), status=422)
        assert body["code"] == "prompt-too-long"

    def test_markup_in_names_is_text(self, api: Api) -> None:
        name = "<script>alert(1)</script>"
        answer = api.client.post(
            "/predict",
            files=[("images", ("<b>.png", png(), "image/png"))],
            data={"model": "zero-shot", "labels": json.dumps([name, "b"])},
        )
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        found = answer.json()["predictions"][0]
        assert found["filename"] == "<b>.png"
        assert name in {t["label"] for t in found["top"]}


class TestUnreadable:
    ZIP = archive({"a.png": png()})
    HTML = b"<html><script>alert(1)</script></html>"
    SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>'

    @pytest.mark.parametrize("data", [ZIP, HTML, SVG, b"", b"\x89PNG\r\n\x1a\n not really", png()[:60]])
    def test_one_bad_picture_does_not_sink_the_others(self, api: Api, model: str, data: bytes) -> None:
        found = ask(api, png("green"), data, png("green"), model=model)["predictions"]
        assert found[0]["top"] == found[2]["top"]
        assert "error" not in found[0]
        assert found[1]["top"] == []
        assert found[1]["error"]["code"] == "invalid-image"
        assert found[1]["error"]["detail"]

    def test_where_none_can_be_read_it_is_a_problem(self, api: Api, model: str) -> None:
        body = ask(api, self.ZIP, self.HTML, model=model, status=422)
        assert body["code"] == "invalid-image"
        assert faults(body) == {"0.png", "1.png"}

    def test_a_raw_body_that_is_no_image(self, api: Api, model: str) -> None:
        answer = api.client.post(
            "/predict", params={"model": model}, content=self.HTML, headers={"Content-Type": "image/png"}
        )
        assert answer.status_code == 422
        assert answer.json()["code"] == "invalid-image"

    @pytest.mark.parametrize("name", ["../../etc/passwd", "C:\\x.png", "a\x01b.png", "\u202eg.np", "x" * 5000])
    def test_a_filename_is_only_text(self, api: Api, model: str, name: str) -> None:
        body = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + model.encode()
        body += f'\r\n--b\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'.encode()
        body += png() + b"\r\n--b--\r\n"
        answer = api.client.post("/predict", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
        assert answer.status_code == 200 or answer.json()["code"] == "malformed-request", answer.text
        assert api.client.get("/livez").status_code == 200


class TestRefused:
    def test_no_model(self, api: Api) -> None:
        assert faults(ask(api, png(), status=422)) == {"model"}

    def test_every_fault_at_once(self, api: Api) -> None:
        body = ask(api, png(), top_k="0", reject_below="2", labels="x", surprise="1", status=422)
        assert faults(body) == {"model", "top_k", "reject_below", "labels", "surprise"}

    @pytest.mark.parametrize("model", ["model_" + "0" * 26, "nothing", "../../etc", "a/b", "zero_shot"])
    def test_unknown_model(self, api: Api, model: str) -> None:
        assert ask(api, png(), model=model, status=404)["code"] == "unknown-model"

    def test_no_image(self, api: Api, model: str) -> None:
        answer = api.client.post("/predict", data={"model": model})
        assert answer.status_code == 422
        assert faults(answer.json()) == {"images"}

    def test_too_many_images(self, api: Api, model: str) -> None:
        body = ask(api, *[png("red", 0)] * 65, model=model, status=413)
        assert "64" in body["detail"]

    def test_a_json_body(self, api: Api, model: str) -> None:
        answer = api.client.post("/predict", json={"model": model})
        assert answer.status_code == 415
        assert answer.json()["code"] == "unsupported-media-type"

    def test_a_file_in_another_field(self, api: Api, model: str) -> None:
        answer = api.client.post("/predict", files={"image": ("a.png", png())}, data={"model": model})
        assert answer.status_code == 422
        assert "'images'" in answer.json()["detail"]

    def test_a_deleted_model_is_gone_at_once(self, api: Api, towers: tuple[str, str]) -> None:
        doomed = store_model(api.services, towers[0])
        ask(api, png(), model=doomed)
        assert api.client.delete(f"/models/{doomed}").status_code == 204
        assert ask(api, png(), model=doomed, status=404)["code"] == "unknown-model"


@given(
    st.dictionaries(
        st.sampled_from(["model", "top_k", "reject_below", "priors", "labels", "backbone", "other"]),
        st.lists(
            st.text(max_size=20)
            | st.from_regex(r"-?\d{1,4}(\.\d{1,3})?", fullmatch=True)
            | st.dictionaries(st.text(max_size=3), st.floats() | st.integers(-1, 9), max_size=3).map(json.dumps),
            min_size=1,
            max_size=2,
        ),
    )
)
def test_options_are_usable_or_refused(fields: dict[str, list[str]]) -> None:
    try:
        question = parse_question(Form(fields=fields), 1000)
    except Problem:
        return  # any other error fails the test
    assert question.models
    assert 1 <= question.top_k <= 1000
    assert question.terms.reject_below is None or 0 <= question.terms.reject_below <= 1
    assert question.terms.priors is None or all(value >= 0 for value in question.terms.priors.values())
    assert question.labels is None or 2 <= len(set(question.labels)) == len(question.labels)


class TestWhatIsKept:
    """A model that answers from its text features alone has nothing else in memory."""

    def test_its_tensors_are_read_again_for_new_names_alone(
        self, make_settings: Callable[..., AppSettings], towers: tuple[str, str]
    ) -> None:
        with running_api(make_settings(backbone=towers[0])) as own:
            model = store_model(own.services, towers[0])
            first = ask(own, png(), model=model)["predictions"]
            file = own.services.models.folder(model) / "classifier.safetensors"
            away = file.rename(file.with_name("away"))
            assert ask(own, png(), model=model)["predictions"] == first
            ask(own, png(), model=model, labels='["red", "green"]')
            ask(own, png(), model=model, labels='["red", "a new name"]', status=500)
            away.rename(file)
            found = ask(own, png(), model=model, labels='["red", "a new name"]')["predictions"]
            file.unlink()
            assert ask(own, png(), model=model, labels='["red", "a new name"]')["predictions"] == found

    def test_new_names_count_as_memory(
        self, make_settings: Callable[..., AppSettings], towers: tuple[str, str]
    ) -> None:
        with running_api(make_settings(backbone=towers[0])) as own:
            model = store_model(own.services, towers[0])

            def held() -> float:
                inference = own.app.state.context.inference
                return inference.loaded_bytes()["models"]  # type: ignore[no-any-return]

            ask(own, png(), model=model)
            before = held()
            assert 0 < before < 64 * 1024
            ask(own, png(), model=model, labels=json.dumps([f"name {number}" for number in range(50)]))
            assert held() > before + 50 * 16 * 4
