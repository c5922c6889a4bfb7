"""casstore sign"""

from __future__ import annotations

import json
from pathlib import Path

import click

from casstore.cli.arguments import complete_tag
from casstore.cli.options import Options, common_options, pass_options
from casstore.cli.output import hint, is_screen, plural, printable, show_json
from casstore.cli.progress import progress_bar

_EXAMPLES = """\b
Examples:
  openssl ecparam -name prime256v1 -genkey -noout -out key.pem
  openssl pkey -in key.pem -pubout -out key.pub
  casstore sign bert:v1 --key key.pem
  casstore verify bert:v1 --signatures --key key.pub
  casstore sign bert:v1 --key key.pem -o model.sig     and a copy, for other programs
"""
_FILE = click.Path(path_type=Path, dir_okay=False)
_MOST_READ_BYTES = 64 << 20  # no signature is larger


@click.command(short_help="Sign a version with a key.", epilog=_EXAMPLES)
@click.argument("tag", metavar="TAG", shell_complete=complete_tag)
@click.option("--key", "key", metavar="FILE", type=_FILE, required=True, help="The private key, in PEM.")
@click.option("--password-file", metavar="FILE", type=_FILE, help="A file with the password of an encrypted key.")
@click.option(
    "--hash",
    "hash_name",
    type=click.Choice(["sha256", "blake3"]),
    default="sha256",
    show_default=True,
    help="The digests to sign. blake3 takes no reading, and the command line of model_signing cannot check it.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=_FILE,
    help="Also write the signature to this file, which is new, empty or a signature.",
)
@common_options
@pass_options
def sign(
    options: Options, tag: str, key: Path, password_file: Path | None, hash_name: str, output: Path | None
) -> None:
    """Sign the files of a version, in the format of OpenSSF model-signing.

    The key is one on the curve P-256, P-384 or P-521. The signature is kept in the store, in place of one by the same
    key, goes into archives with the version, and serves every version of the same files. `model_signing verify key`
    checks it too: of the directory that `casstore path` prints, or of an exported folder. Needs the package
    cryptography: pip install 'casstore[sign]'.
    """
    if output is not None and not _may_be_replaced(output):
        raise click.ClickException(
            f"{printable(str(output))} is there and is not a signature, so it stays and nothing is signed; give "
            "--output a name that is free"
        )
    password = None if password_file is None else password_file.read_text(encoding="utf-8").rstrip("\r\n")
    with options.open_store() as store, progress_bar(options) as progress:
        model = store.get(tag)
        signature = store.sign(model.tag, key, password=password, hash=hash_name, progress=progress)
    if output is not None:
        output.write_bytes(signature.bundle)
    if options.json:
        said = {"key": signature.key, "hash": signature.hash, "files": signature.files}
        show_json({"tag": str(model.tag), **said, "output": None if output is None else str(output)})
    elif is_screen():
        click.echo(f"signed {printable(str(model.tag))}: {plural(signature.files, 'file')} by key {signature.key[:16]}")
    else:
        click.echo(f"{model.tag}\t{signature.key}")
    hint(options, f"`casstore verify {model.tag} --signatures --key PUBLIC_KEY` checks it")


def _may_be_replaced(path: Path) -> bool:
    """Whether nothing but a signature would go; a pipe takes what comes."""
    if not path.is_file():
        return True
    with path.open("rb") as file:
        data = file.read(_MOST_READ_BYTES)
    try:
        document = json.loads(data) if data else {"dsseEnvelope": None}
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and "dsseEnvelope" in document
