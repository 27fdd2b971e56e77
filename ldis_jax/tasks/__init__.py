"""LDIS's two meta-architectures behind one interface: ``loss`` and ``predict``."""

from ldis_jax.tasks.ldis1 import LDIS1
from ldis_jax.tasks.ldisn import LDISN
from ldis_jax.tasks.task import PromptInputs, Prompts, PromptTokens, Task, query_keys, task_from_dict

__all__ = ["LDIS1", "LDISN", "PromptInputs", "PromptTokens", "Prompts", "Task", "query_keys", "task_from_dict"]
