"""The grids of GGUF's IQ formats: sets of short vectors that a code names by its place in the set.

    iq2_xxs   256 of the 3^8 vectors of 8 values 8, 25, 43          codes of 8 bits
    iq2_xs    512 of them                                           codes of 9 bits
    iq3_xxs   256 of the 8^4 vectors of 4 values 4, 12 ... 52, 62   codes of 8 bits

A vector's first value is the last digit of a number in base 3 or 8, and a grid lists its numbers in ascending order:
so a grid is a set of numbers, held here as one bit for each number, deflated and in base 85. The sets are data of the
format: ggml chose them from the E8 and D4 lattices by how often they occur. Signs lie beside: seven bits, and an eighth
that makes the number of minus signs even.
"""

from __future__ import annotations

import base64
import functools
import zlib

import numpy as np
import torch

LEVELS_2 = (8, 25, 43)
LEVELS_3 = (4, 12, 20, 28, 36, 44, 52, 62)

SETS: dict[str, tuple[tuple[int, ...], int, bytes]] = {
    "iq2_xxs": (LEVELS_2, 8, (
    b"c-"
    b"nPRORB^$43oj#tB`je2YP^R=KfcCw)5@K5e=lV<VbEmf91ogR%p3E0BR^O#16P=^@J3)+t0mx___f>P^zDolEn6;is&dxI!#Zg_{KuzkVd4M"
    b"w`?l*l~*(z5~c8Qj-!-YZym34v`$TQ4<4*~)dpL;rq|+W4irx`d$&)6^vGb7UkLBrzcFbHqcf>sMFwRxr;MTG;*}m%Qlby-"
    b"@@TSk)X7om@@#uKQIjUUWQ&$2&y}*gX5TV=Bc|Cuh1wL(2Kn3A3Yj<N%;gblzhT7_jxp@MF=lA5st5R^Hl2J=^JV`E{Z0D^#$6R7"
    )),
    "iq2_xs": (LEVELS_2, 8, (
    b"c-mc2TdsvL2pkgnkBRPwCicH3cK=&BJX-bM<{ZTW!^|+oxJIi-qkD|rsuaR~iB<*?x~C4>8J0pJW<V>X*vo#SY&(-c)w(<-"
    b"fCU6QVt|)*=>oJ=N8h~B3mmYKBw*Y)Ca<s*uvOak7T*la5<g=kAh?T96(5+bR(Mt@J=L5^n!u1sF+~=p=RjVCGbM+vDH*59tF!>kC`)-"
    b"u3GzO}jM8X_r-*1ytubG*&a^iqGs?p-do}D8x2NWXU?%O)=7t88q040RdJ=Ak)9T+$YBcFD31^6BC_W+mG1}iEA-T}Oj@u6-"
    b"pQ1yByIl9%`W3mW#F%j~<yh(N0zSL~oH^Zy%}}tQx4=M73#xoc?jNErTmD?iDs40;(&MG>YYMNuDE=SK;cc#9vM%q_=>7msuqjC"
    )),
    "iq3_xxs": (LEVELS_3, 4, (
    b"c-l=-F%H5o3_M%0RAmZ7_lgPeigaLyA4Q!IuVCbv_?)J2Rn;aw-<^~BWtxCXwzFx0%xW)eST<YW5KL&L;j#hAAHoX-"
    b"c)&}FY<X@1m|7IGsjrX>q7@bAuHrcP3L2_`6x)_>^v5;&o?@Fdagv_Uo9H*utGOGEJ93R6P|L2rgx{U}Y-"
    b"UnrS3sKYtPIbF!WdDS7|dsT<9UQCqzhJe8+4kK5km%XvHjm=J(sMgqk-e3v^zjTJayVggoDWMJzTWE4a0T)3l-"
    b"9P!ydlNePrBA?Xny*@kmBo4W|8$?wEo20v5Uy_5"
    )),
}  # fmt: skip
"""By format: the values of a digit, the digits of a vector, the set."""


@functools.cache
def grid(name: str, device: torch.device) -> torch.Tensor:
    """Returns a format's vectors by code: float32 [256 or 512, 8 or 4]."""
    levels, digits, packed = SETS[name]
    bits = np.frombuffer(zlib.decompress(base64.b85decode(packed)), np.uint8)
    numbers = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
    places = numbers[:, None] // len(levels) ** np.arange(digits) % len(levels)
    return torch.tensor(levels, dtype=torch.float32)[torch.from_numpy(places)].to(device)


@functools.cache
def signs(device: torch.device) -> torch.Tensor:
    """Returns 1 or -1 for eight values by their seven stored bits: float32 [128, 8]."""
    bits = torch.arange(128)[:, None] >> torch.arange(7) & 1
    bits = torch.cat((bits, bits.sum(1, keepdim=True) & 1), 1)
    return (1 - 2 * bits).float().to(device)
