"""Names, shapes and dtypes against the configuration, and the configuration against the architecture."""

from __future__ import annotations

import json
from collections.abc import Iterator

from wavefold.checkpoint.count import count_files, part_of
from wavefold.checkpoint.files import read_refs
from wavefold.checkpoint.fit import Fit
from wavefold.checkpoint.index import CONFIG_NAME
from wavefold.checkpoint.load import kinds_of
from wavefold.config import ModelConfig, read_config
from wavefold.doctor.finding import Finding, failed, listed, passed
from wavefold.doctor.patient import Patient
from wavefold.gguf import is_gguf, open_parts
from wavefold.model import Transformer

AGAIN = "download or convert the file again"


def structure(patient: Patient) -> Iterator[Finding]:
    try:
        config, values = read_config(patient.path)
    except ValueError as error:
        yield _unread(patient, str(error))
        return
    patient.config = config
    if unknown := ModelConfig.unknown_keys(values):
        yield passed("configuration", f"keys that nobody knows have no effect: {listed(unknown)}")
    try:
        stored = read_refs(patient.path)
    except ValueError as error:
        yield failed("files", str(error), AGAIN)
        return
    model = Transformer(config)
    if config.num_nextn_predict_layers and not any(name.startswith("mtp.") for name in stored.refs):
        model.drop_mtp()
    fit = Fit(model, kinds_of(stored.refs, is_gguf(patient.path)), None, False)
    problems = fit.problems
    for title, names in (("missing", problems.missing), ("unexpected", problems.unexpected), ("wrong", problems.wrong)):
        parts: dict[str, list[str]] = {}
        for name in names:
            parts.setdefault(part_of(name.split(" ")[0]), []).append(name)
        for part, found in parts.items():
            yield failed(part, f"{len(found)} tensors {title}: {listed(found)}", AGAIN)
    if problems.missing or problems.unexpected or problems.wrong:
        return
    patient.refs = stored.refs
    counted = count_files(patient.path, model.config)
    extra = f"; {len(counted.extra)} that the text model does not need" if counted and counted.extra else ""
    yield passed("tensors", f"{len(stored.refs):,} have the names, shapes and types of the configuration{extra}")


def _unread(patient: Patient, message: str) -> Finding:
    """Returns the failure of a configuration that could not be read: by the whole file, the JSON, or a key."""
    try:
        if is_gguf(patient.path):
            open_parts(patient.path)
        else:
            json.loads((patient.path / CONFIG_NAME).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        patient.is_readable = not is_gguf(patient.path)
        if patient.is_readable:
            return failed(CONFIG_NAME, message, f"mend the JSON, or take {CONFIG_NAME} of the official folder")
        return failed("file", message, AGAIN)
    key = _key(message)
    mend = f"put {'the key' if key == 'configuration' else key} right in {CONFIG_NAME}"
    return failed(key, message, AGAIN if is_gguf(patient.path) else mend)


def _key(message: str) -> str:
    """Returns the configuration's key that an error names, "configuration" for none."""
    words = [word for word in message.replace(":", " ").split() if word in ModelConfig.__dataclass_fields__]
    return words[0] if words else "configuration"
