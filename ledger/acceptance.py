"""The acceptance rule of signatures, frozen: what the library must say of keys and signatures that others would accept.

The rule decides which blocks are valid, so it may never be whatever an installed library happens to do. The cases are the
vectors of RFC 8032 and those in which libraries differ: malleated scalars, keys and nonces of small or mixed order, encodings
that are not canonical. A node runs them before it opens anything (`ledger.crypto.self_test`); `tests/vectors/ed25519.json`
holds the same for others.
"""

from __future__ import annotations

from typing import Final

# name, public key, message, signature (hex), accepted, the key may enter the state
CASES: Final[tuple[tuple[str, str, str, str, bool, bool], ...]] = (
    (
        "RFC 8032 test 1", "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b", True, True,
    ),
    (
        "RFC 8032 test 2", "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00", True, True,
    ),
    (
        "RFC 8032 test 3", "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a", True, True,
    ),
    (
        "honest", "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8",
        "71756f726978",
        "392ca19435c9ecae2be44c06e48954d4be7ecf367aedd59cb1124f05684f8fee"
        "8df434205cd38da43ffe4e4d706e251944dcdd64b254071616325d65ee7be801", True, True,
    ),
    (
        "other message", "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8",
        "71756f727578",
        "392ca19435c9ecae2be44c06e48954d4be7ecf367aedd59cb1124f05684f8fee"
        "8df434205cd38da43ffe4e4d706e251944dcdd64b254071616325d65ee7be801", False, True,
    ),
    (
        "other key", "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29",
        "71756f726978",
        "392ca19435c9ecae2be44c06e48954d4be7ecf367aedd59cb1124f05684f8fee"
        "8df434205cd38da43ffe4e4d706e251944dcdd64b254071616325d65ee7be801", False, True,
    ),
    (
        "malleated: S + L", "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8",
        "71756f726978",
        "392ca19435c9ecae2be44c06e48954d4be7ecf367aedd59cb1124f05684f8fee"
        "7ac82a7d7636a0fc159b46f04e68042e44dcdd64b254071616325d65ee7be811", False, True,
    ),
    (
        "S = L", "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8",
        "71756f726978",
        "392ca19435c9ecae2be44c06e48954d4be7ecf367aedd59cb1124f05684f8fee"
        "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010", False, True,
    ),
    (
        "S with the top bits set", "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8",
        "71756f726978",
        "392ca19435c9ecae2be44c06e48954d4be7ecf367aedd59cb1124f05684f8fee"
        "8df434205cd38da43ffe4e4d706e251944dcdd64b254071616325d65ee7be8e1", False, True,
    ),
    (
        "zero signature", "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8",
        "71756f726978",
        "0000000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000", False, True,
    ),
    (
        "R flipped", "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8",
        "71756f726978",
        "382ca19435c9ecae2be44c06e48954d4be7ecf367aedd59cb1124f05684f8fee"
        "8df434205cd38da43ffe4e4d706e251944dcdd64b254071616325d65ee7be801", False, True,
    ),
    (
        "R is the identity, honest key", "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8",
        "71756f726978",
        "0100000000000000000000000000000000000000000000000000000000000000"
        "071024446058b46abe6a387105e7b50c3447194358e190605b8728f51f7e3403", False, True,
    ),
    (
        "key of order dividing 8 (0), R identity, S zero", "0100000000000000000000000000000000000000000000000000000000000000",
        "71756f726978",
        "0100000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000", False, False,
    ),
    (
        "key of order dividing 8 (1), R identity, S zero", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "71756f726978",
        "0100000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000", False, False,
    ),
    (
        "key of order dividing 8 (2), R identity, S zero", "0000000000000000000000000000000000000000000000000000000000000080",
        "71756f726978",
        "0100000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000", False, False,
    ),
    (
        "key of order dividing 8 (3), R identity, S zero", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "71756f726978",
        "0100000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000", False, False,
    ),
    (
        "key of order dividing 8 (4), R identity, S zero", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "71756f726978",
        "0100000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000", False, False,
    ),
    (
        "key of order dividing 8 (5), R identity, S zero", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "71756f726978",
        "0100000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000", False, False,
    ),
    (
        "key of order dividing 8 (6), R identity, S zero", "0000000000000000000000000000000000000000000000000000000000000000",
        "71756f726978",
        "0100000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000", False, False,
    ),
    (
        "key of order dividing 8 (7), R identity, S zero", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "71756f726978",
        "0100000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000", False, False,
    ),
    (
        "R of mixed order (1)", "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8",
        "71756f726978",
        "6a84d583f06569edb3f5ed77df65544b27d6948b4f0b2cb76f33dd8413b20719"
        "b5587bc228c0be0a9f309f1ff1d34c47b56fdddc863e8907ac1805acf5a5bb01", False, True,
    ),
    (
        "R of mixed order (4)", "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8",
        "71756f726978",
        "76985cdbd2364a744397b773ed9a33933a0d9390c3775a2aa16fe4f8cb235a8d"
        "0664cbb5b8ff272b6258901a1884949b5f5830ea8699ade3a1be5f8daf406a0c", False, True,
    ),
    (
        "key of mixed order, k mod 8 != 0", "b502ff3d92e31d8190b4aa4ea0414005167fad089c4de9dac8a2fc850fed4f58",
        "71756f726978",
        "e7caaa83373a94afae43fec59b447c99ba282b19a7616c24c785ad8966a1e10e"
        "702b2ca1ce6c7916b8f46d5ab2196518112a1ea05f319b6372c0dde1700f2307", False, False,
    ),
    (
        "key of mixed order, k mod 8 = 0", "b502ff3d92e31d8190b4aa4ea0414005167fad089c4de9dac8a2fc850fed4f58",
        "71756f726978",
        "dd526d2c7288bb7a92b18314e90df4dc26ada5c8112f780b57e966a96552292a"
        "9fa147e8cf8435b3ea7167222e0f69b67369ee7526dafffa4e6b2088cd6b2a06", True, False,
    ),
    (
        "R not canonical (y = p + 1)", "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8",
        "71756f726978",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"
        "1299fd0d9cfbecc38d1de1dd290d5e6f29ae35538a803cb841241547ce3ab907", False, True,
    ),
    (
        "key not canonical (y = p + 1)", "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "71756f726978",
        "0100000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000", False, False,
    ),
    (
        "key not a point", "0200000000000000000000000000000000000000000000000000000000000000",
        "71756f726978",
        "392ca19435c9ecae2be44c06e48954d4be7ecf367aedd59cb1124f05684f8fee"
        "8df434205cd38da43ffe4e4d706e251944dcdd64b254071616325d65ee7be801", False, False,
    ),
)

# A seed (RFC 8032, test 1), and its signature of "abc" under the tag `open` and a context of zeros: signing and hashing.
SEED: Final = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
SIGNED: Final = (
    "7bd6adecd9bbb06ee4df7113d89cebe1188aa837ad99d92507b38b8d684d7e42"
    "c2efea8b004e4ae0f82adda7c3c7f848ea17d573de96b30d4cb9608891bfbe0c"
)
