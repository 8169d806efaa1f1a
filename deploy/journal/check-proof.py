#!/usr/bin/env python3
"""Checks a proof that `spine-proxy audit prove` wrote, without that program and without the journal.

    check-proof.py PROOF.json --key VKEY [--key VKEY ...]

VKEY is the public key of the journal or of a witness, as `name+hash+base64`. Get it from its owner, not from
whoever sent the proof. Exit codes: 0, each line is signed by a given key; 3, a line is signed by no given key;
1, the proof is false or cannot be read; 2, wrong arguments.

Needs Python 3.8, and its package `cryptography` or OpenSSL 3. Formats: tlog-proof, signed-note,
tlog-checkpoint and tlog-cosignature of https://c2sp.org; RFC 6962, section 2.1; RFC 8032.
"""
import argparse, base64, datetime, hashlib, json, os, re, subprocess, sys, tempfile


def need(is_true, what):
    if not is_true:
        raise ValueError(what)


def unbase64(text):
    data = base64.b64decode(text, validate=True)
    need(base64.b64encode(data).decode() == text, "base64 with more than one spelling")
    return data


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def key_id(name, kind, public):
    return sha256(name.encode(), b"\n", bytes([kind]), public)[:4]


def read_vkey(vkey):
    name, hashed, encoded = vkey.split("+", 2)
    data = unbase64(encoded)
    need(len(data) == 33 and data[0] in (1, 4), "not an Ed25519 key of type 1 or 4")
    kind, public = data[0], data[1:]
    need(hashed == key_id(name, kind, public).hex(), "the hash is not that of the name and key")
    return name, kind, public, vkey


def is_signed(public, signature, message):
    """Returns true if this is the Ed25519 signature of the message."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        with tempfile.TemporaryDirectory() as folder:
            key, sig, text = (os.path.join(folder, name) for name in ("key", "sig", "text"))
            der = bytes.fromhex("302a300506032b6570032100") + public  # SubjectPublicKeyInfo, RFC 8410
            for path, data in ((key, der), (sig, signature), (text, message)):
                with open(path, "wb") as file:
                    file.write(data)
            verify = f"openssl pkeyutl -verify -rawin -pubin -keyform DER -inkey {key} -sigfile {sig} -in {text}"
            said = subprocess.run(verify.split(), stdout=subprocess.PIPE, text=True)
            if said.returncode and "Verification Failure" not in said.stdout:
                raise OSError("openssl cannot verify Ed25519 signatures")
            return said.returncode == 0
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        return True
    except InvalidSignature:
        return False


def root_of(leaf, index, size, path):
    """Returns the root of a tree of this size from a leaf and the siblings on its path; takes them off."""
    if size == 1:
        return leaf
    need(path, "the inclusion proof is too short")
    left, sibling = 1 << (size - 1).bit_length() - 1, path.pop()
    if index < left:
        return sha256(b"\x01", root_of(leaf, index, left, path), sibling)
    return sha256(b"\x01", sibling, root_of(leaf, index - left, size - left, path))


def check(line, proof, keys):
    """Returns the line's number, the journal's name, the size of the tree, and who signed it and when."""
    head, note = proof.split("\n\n", 1)
    text, signatures = note.rsplit("\n\n", 1)
    title, extra, index, *path = head.split("\n")
    origin, size, root = text.split("\n")[:3]
    need(title == "c2sp.org/tlog-proof@v1" and extra[:6] == "extra " and index[:6] == "index ", "not a tlog-proof")
    need(all(re.fullmatch("0|[1-9][0-9]{0,18}", number) for number in (index[6:], size)), "not a number")
    previous, index, size = unbase64(extra[6:]), int(index[6:]), int(size)

    # A line ends in SHA-256(chain value before it, bytes of the line before `,"chain"`), its own chain value.
    parts = re.fullmatch(r'(\{.*),"chain":"([0-9a-f]{64})"\}', line)
    need(parts and json.loads(line)["seq"] == index + 1 <= size, "the index is not that of the line")
    chain = sha256(previous, parts[1].encode())
    need(len(previous) == 32 and chain.hex() == parts[2], "the line was changed")

    # The chain values are the leaves of the tree.
    path = [unbase64(sibling) for sibling in path]
    root_found = root_of(sha256(b"\x00", chain), index, size, path)
    need(not path and root_found == unbase64(root), "the line is not in the tree of the checkpoint")

    # A key of type 1 is the journal's: it signs the text and, as type 4, a time and the text.
    signed = []
    is_plain = all(char >= " " for char in note.replace("\n", ""))
    need(is_plain and signatures.endswith("\n") and origin != "cosignature/v1", "not a signed note")
    for signature in signatures[:-1].split("\n"):
        dash, name, encoded = signature.split(" ")
        data, seconds, message = unbase64(encoded), None, text + "\n"
        need(dash == "\u2014", "not a signature line")
        for owner, kind, public, vkey in keys:
            if owner != name or data[:4] not in (key_id(name, kind, public), key_id(name, 4, public)):
                continue
            bytes_of_it = data[4:]
            if data[:4] == key_id(name, 4, public):
                seconds, bytes_of_it = int.from_bytes(data[4:12], "big"), data[12:]
                message = f"cosignature/v1\ntime {seconds}\n{text}\n"
            need(is_signed(public, bytes_of_it, message.encode()), f"the signature of {name} is wrong")
            signed.append((vkey, seconds))
    return index + 1, origin, size, signed


def main():
    options = argparse.ArgumentParser(description="Checks a proof that `spine-proxy audit prove` wrote.")
    options.add_argument("proof", help="file with the proof")
    options.add_argument("--key", action="append", default=[], type=read_vkey, help="name+hash+base64")
    wanted = options.parse_args()
    try:
        with open(wanted.proof, encoding="utf-8") as file:
            lines = json.load(file)["lines"]
        need(lines, "the proof has no lines")
        is_proven = True
        for entry in lines:
            seq, origin, size, signed = check(entry["line"], entry["proof"], wanted.key)
            print(f"line {seq} of {origin} is in the tree of its first {size} lines")
            for vkey, seconds in signed:
                at = seconds and datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
                print(f"  signed by {vkey}" + (f" at {at:%Y-%m-%dT%H:%M:%SZ}" if at else ""))
            is_proven &= bool(signed)
    except OSError as error:
        print(f"NOT CHECKED: {error}")
        return 1
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        print(f"FALSE or malformed: {error}")
        return 1
    print("PROVEN: every line is as it was when it was signed" if is_proven else
          "NOT PROVEN: no given key signed the checkpoint; give the journal's public key with --key")
    return 0 if is_proven else 3


if __name__ == "__main__":
    sys.exit(main())
