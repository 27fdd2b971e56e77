"""The reader of exchanges, on text with known sums."""

from ldis_jax.costs.exchanges import collectives
from tests.costs.test_hlo import PROGRAM

# Two exchanges beside compute: one travels as part of fusions, one between its start and its end.
HIDDEN = """
%begin (p: bf16[100]) -> (bf16[100], bf16[400]) {
  %all-gather.1 = bf16[400]{0} all-gather(%p), channel_id=1, replica_groups={{0,1,2,3}}, CHAIN
  ROOT %start = (bf16[100]{0}, bf16[400]{0}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%work (p.1: bf16[100]) -> bf16[400] {
  %all-gather.2 = bf16[400]{0} all-gather(%p.1), channel_id=1, replica_groups={{0,1,2,3}}, CHAIN
  ROOT %product = f32[8]{0} convolution(%x, %x), backend_config={"estimated_cycles":"999"}
}

%end (p.2: bf16[100]) -> bf16[400] {
  ROOT %all-gather.3 = bf16[400]{0} all-gather(%p.2), channel_id=1, replica_groups={{0,1,2,3}}, CHAIN
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %async-start = (bf16[100]{0}, bf16[400]{0}) fusion(%x), kind=kCustom, calls=%begin
  %other = f32[8]{0} copy(%x), backend_config={"estimated_cycles":"1000"}
  %carrier = f32[8]{0} fusion(%x), kind=kOutput, calls=%work, backend_config={"estimated_cycles":"40"}
  %async-done = bf16[400]{0} fusion(%x), kind=kCustom, calls=%end
  %permute.1 = (bf16[90]{0}, bf16[90]{0}) collective-permute-start(%z), source_target_pairs={{0,1},{1,0}}
  %long = f32[8]{0} copy(%x), backend_config={"estimated_cycles":"1000"}
  %permute.2 = bf16[90]{0} collective-permute-done(%permute.1)
  %late = f32[8]{0} copy(%x), backend_config={"estimated_cycles":"1000"}
  %all-reduce.7 = bf16[50]{0} all-reduce(%y), channel_id=1, replica_groups={{0,1}}, to_apply=%sum
}
""".replace("CHAIN", 'frontend_attributes={chain_id="7"}')


def test_collectives():
    found = {(c.kind, c.group, c.network): (c.count, c.bytes) for c in collectives(PROGRAM, rate=1.0)}
    assert found == {
        ("all-gather", 4, False): (20, 20 * 128 * 3 // 4),
        ("all-reduce", 2, False): (1, 32),  # there and back, of 32 bytes the half each
        # Two that were combined on one channel, and one whose result is a quarter.
        ("reduce-scatter", 4, False): (3, (128 + 64 + 4 * 40) * 3 // 4),
        ("collective-permute", 2, False): (1, 12),
        ("all-reduce", 4, True): (1, 192 * 2 * 3 // 4),  # of four slices
    }


def test_collectives_counts_what_travels_beside_compute():
    found = {c.kind: (c.count, c.bytes, c.hidden_bytes) for c in collectives(HIDDEN, rate=3.0)}
    assert found == {
        "all-gather": (1, 600, 120),  # while the one fusion that carries it runs, 40 cycles of 3 bytes
        "collective-permute": (1, 180, 180),
        "all-reduce": (1, 100, 0),
    }
