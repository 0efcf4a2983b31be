"""Pictures of the page for docs/: `python -m tests.page.screenshots [FOLDER]`.

    page_inside.webp    a completion by the model that ships, and what it saw at one of its tokens
    page_phone.webp     the same on a phone
    page_chat.webp      a chat, dark; its answer is scripted
    page_compare.webp   one message to the model that ships and to the three specialists beside it
    page_served.webp    models amid a swap, and a queue at work, side by side; what they show is scripted

It needs Chromium, Playwright and Pillow. Each picture has at most 40 kB: colours are left out until it fits.
"""

from __future__ import annotations

import heapq
import inspect
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.page.fake_jobs import FakeJobs
from tests.page.fake_pool import FakePool, pooled
from tests.page.fake_server import FakeServer, serving
from tests.page.tools import NO_CHROMIUM, chromium, send
from tests.server.running import running, running_models
from wavefold import LLM
from wavefold.locate import DEFAULT_MODEL
from wavefold.server.contexts import context_for
from wavefold.server.opening import Opening
from wavefold.server.pool import PooledModels
from wavefold.server.protocol import PROTOCOLS

MOST_BYTES = 40_000
DESKTOP = {"viewport": {"width": 1320, "height": 860}, "reduced_motion": "reduce"}
DARK = DESKTOP | {"color_scheme": "dark"}
PHONE = {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True, "reduced_motion": "reduce"}
CODE = inspect.getsource(heapq)
CODE = CODE[CODE.index("def heappush(") : CODE.index("def _heapreplace_max(")] + "def _heapreplace_max(heap, "
QUESTION = "How does a model read a long text without attending to every token?"
ANSWER = """It compresses. Each layer keeps the last 128 tokens as they are, and *entries* of all that came before:

- **CSA** makes an entry of every 4 tokens. An indexer scores all of them and attends to the best few.
- **HCA** makes an entry of every 128 tokens, and attends to all of them.

So the cost of a token hardly grows with the text. For a million tokens there are

```python
csa = 1_000_000 // 4    # 250,000 entries, of which the indexer chooses
hca = 1_000_000 // 128  # 7,812 entries, all of them attended to
```

Choose **Look inside** below to see which entries this answer was made from.
"""
COMPARED = "At 09:30 AM, Monday through Friday"
SPECIALISTS = (("contracts", 1_030, "official"), ("medicine", 980, "gguf"), ("old", 960, "gguf"),
               ("rust-review", 1_100, "official"), ("tax-law", 990, "gguf"))  # fmt: skip
"""Name, tenths of a gigabyte, kind."""


def settings(page: Any, **fields: str) -> None:
    page.keyboard.press("Alt+Shift+KeyS")
    for name, value in fields.items():
        page.fill(f"#set-{name}", value)
    page.click("dialog [type=submit]")


def save(page: Any, path: Path) -> None:
    """Takes a picture as lossless WebP, of so many colours that it fits."""
    write(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), path)


def write(picture: Image.Image, path: Path) -> None:
    for num_colors in (256, 128, 96, 64, 48, 32):
        data = io.BytesIO()
        few = picture.quantize(num_colors, method=Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE)
        few.convert("RGB").save(data, "WEBP", lossless=True, quality=100, method=6)
        if data.tell() <= MOST_BYTES:
            break
    path.write_bytes(data.getvalue())
    print(f"{path}: {data.tell():,} bytes, {num_colors} colours")


def inside(page: Any, phone: bool) -> None:
    """A completion of a module of the standard library, and a look at one of its tokens."""
    page.keyboard.press("Alt+Shift+KeyC")
    settings(page, max_tokens="40", temperature="0")
    page.fill("#complete-before", CODE)
    page.click("#complete")
    page.wait_for_selector("text=Take over")
    page.evaluate("document.querySelector('#complete-before').scrollTop = 1e6")
    page.click(".completion-foot >> text=Look inside")
    page.wait_for_selector(".machine dd")
    strip = page.locator("tr[data-layer='2'] .strip")
    strip.scroll_into_view_if_needed()
    page.locator("tr[data-layer='1'] .strip").focus()
    box = strip.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 6)
    if not phone:
        page.evaluate("document.querySelector('.inside-scroll').scrollTop = 0")


def chat(page: Any) -> None:
    """A question whose answer is scripted, asked twice."""
    send(page, QUESTION)
    page.click(".turn.last [data-act=again]")
    page.wait_for_selector(".turn.last:not(.writing) .place")
    page.mouse.move(5, 5)


def compared(browser: Any, path: Path) -> None:
    """What ships, side by side, in a window as high as it needs."""
    with tempfile.TemporaryDirectory() as folder:
        for place in DEFAULT_MODEL.parent.iterdir():
            if place.is_dir() and place.name[0] not in "._":
                (Path(folder) / place.name).symlink_to(place)
        models = PooledModels(Path(folder), 4 << 30, Opening("released", 4, 4096))
        with running_models(models) as server:
            page = browser.new_context(viewport={"width": 1320, "height": 560}, reduced_motion="reduce").new_page()
            page.goto(f"http://127.0.0.1:{server.port}/")
            page.wait_for_selector("#tab-compare:visible")
            page.click("#tab-compare")
            settings(page, max_tokens="24", temperature="0")
            page.fill("#compare-text", COMPARED)
            page.click("#compare-ask")
            page.wait_for_selector("#compare-ask:visible")
            page.wait_for_timeout(300)
            save(page, path)


def served(browser: Any, path: Path) -> None:
    """The panels of models and jobs, each in a narrow window."""
    gigabyte = 1_000_000_000
    pool = FakePool({name: pooled(name, bytes=size * gigabyte // 10, kind=kind) for name, size, kind in SPECIALISTS})
    pool.set("contracts", "loaded", memory_bytes=64 * gigabyte, pinned=True, users=3, last_used="2100-01-01T00:00:00Z")
    pool.swap("medicine", "rust-review")
    pool.models["medicine"]["users"] = 1
    pool.models["rust-review"]["memory_bytes"] = pool.models["medicine"]["memory_bytes"] = 21 * gigabyte
    pool.models["old"] |= {"state": "faulty", "fault": "it holds 2 GGUF models; expected one in a folder"}
    pool.limit, pool.base, pool.loads = 112 * gigabyte, 2 * gigabyte, 14
    jobs = FakeJobs()
    jobs.step(jobs.add("letters.jsonl", 1200), 1198, 2)
    running = jobs.add("contracts-2025.jsonl", 10_000, wavefold={
        "priority": 1, "quiet_hours": "22:00-07:00",
        "models": [{"model": "contracts", "total": 8_000, "completed": 6_412, "failed": 3},
                   {"model": "tax-law", "total": 2_000, "completed": 0, "failed": 0}],
    })  # fmt: skip
    jobs.step(running, 6_412, 3, left_s=7_900.0)
    pictures = []
    with serving(FakeServer(pool=pool, jobs=jobs).app()) as address:
        for name in ("models", "jobs"):
            page = browser.new_context(viewport={"width": 620, "height": 800}, reduced_motion="reduce").new_page()
            page.goto(address)
            page.click(f"#tab-{name}")
            page.wait_for_selector(f"#{name} .served-row")
            page.wait_for_timeout(300)
            pictures.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    both = Image.new("RGB", (620 * 2 + 12, 800), "#8793a5")
    for index, picture in enumerate(pictures):
        both.paste(picture, (632 * index, 0))
    write(both, path)


def main(folder: Path) -> None:
    program = chromium()
    if program is None:
        raise SystemExit(NO_CHROMIUM)
    fake = FakeServer(answers={QUESTION: ANSWER}, pause_s=0.01)
    with (
        LLM(width=4, cache_tokens=8192) as llm,
        running(llm, PROTOCOLS, context_for(llm, ("wavefold",))) as server,
        serving(fake.app()) as scripted,
        sync_playwright() as playwright,
    ):
        shipped = f"http://127.0.0.1:{server.port}/"
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        pictures = (("inside", DESKTOP, shipped), ("phone", PHONE, shipped), ("chat", DARK, scripted))
        for name, profile, address in pictures:
            page = browser.new_context(**profile).new_page()
            page.goto(address)
            page.wait_for_selector("#model option", state="attached")
            if name == "chat":
                chat(page)
            else:
                inside(page, name == "phone")
            page.wait_for_timeout(300)
            save(page, folder / f"page_{name}.webp")
        compared(browser, folder / "page_compare.webp")
        served(browser, folder / "page_served.webp")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
