from typing import NamedTuple


class StConfig(NamedTuple):
    prompts: dict
    prompt: str

    @classmethod
    def read(cls, files):
        return cls({}, "")
