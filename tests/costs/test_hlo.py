"""The reader of compiled programs, on text with known sums."""

from ldis_jax.costs.hlo import estimated_cycles, unmodelled_custom_calls

PROGRAM = """
%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %m = f32[8]{0} multiply(%p, %p), backend_config={"estimated_cycles":"999"}
}

%all-reduce-scatter.1 (p.1: bf16[16,4]) -> bf16[4,4] {
  %p.1 = bf16[16,4]{1,0} parameter(0)
  %all-reduce.9 = bf16[16,4]{1,0} all-reduce(%p.1), channel_id=4, replica_groups=[1,4]<=[4], to_apply=%sum
  ROOT %slice = bf16[4,4]{1,0} dynamic-slice(%all-reduce.9)
}

%all-reduce-scatter.2 (p.2: bf16[8,4]) -> bf16[2,4] {
  %p.2 = bf16[8,4]{1,0} parameter(0)
  %all-reduce.8 = bf16[8,4]{1,0} all-reduce(%p.2), channel_id=4, replica_groups=[1,4]<=[4], to_apply=%sum
  ROOT %slice.2 = bf16[2,4]{1,0} dynamic-slice(%all-reduce.8)
}

%body.1 (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %a = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused, m={op_name="OP_A"}, backend_config={"estimated_cycles":"10"}
  %all-gather.1 = f32[32]{0} all-gather(%a), channel_id=1, replica_groups=mesh['a'=2,'b'=2] {'a','b'}, dimensions={0}
}

%condition.1 (arg: (s32[], f32[8])) -> pred[] {
  %constant.3 = s32[]{:T(128)} constant(20)
  ROOT %lt = pred[] compare(%i, %constant.3), direction=LT
}

ENTRY %main.4 (x: f32[8]) -> f32[8] {
  %start = f32[8]{0} copy(%x), m={op_name="OP_B"}, backend_config={"w":{"estimated_cycles":"7"}}
  %sum = f32[8]{0} copy(%x), backend_config={"estimated_cycles":"1"}
  %while.1 = (s32[], f32[8]{0}) while(%tuple.1), condition=%condition.1, body=%body.1
  %all-reduce-start.1 = (f32[4]{0}, f32[2,2]{1,0}) all-reduce-start(%a, %b), channel_id=2, replica_groups={{0,1}}
  %all-reduce-done.1 = f32[8]{0} all-reduce-done(%all-reduce-start.1)
  %scatter = bf16[4,4]{1,0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter.1
  %combined = bf16[2,4]{1,0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter.2
  %plain = bf16[5,4]{1,0} reduce-scatter(%y), channel_id=5, replica_groups=[1,4]<=[4], dimensions={0}, to_apply=%sum
  %permute = (bf16[6]{0}, bf16[6]{0}) collective-permute-start(%z), source_target_pairs={{0,1},{1,0}}
  %recv.1 = (bf16[3,4,8]{2,1,0}, u32[], token[]) recv(%after-all.1), channel_id=3, is_host_transfer=true, MEGASCALE
}
""".replace("MEGASCALE", '_xla_megascale_target="{1,2,3,4}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"')


def test_estimated_cycles_count_loops_as_often_as_they_run_and_fusions_once():
    names = {"OP_A": "jit(f)/transpose(jvp(unet))/resnet/attention/mul", "OP_B": "jit(f)/jvp(vae_encoder)/conv"}
    text = PROGRAM.replace("OP_A", names["OP_A"]).replace("OP_B", names["OP_B"])
    assert estimated_cycles(text) == {"unet backward/attention": 20 * 10, "vae_encoder": 7, "other": 1}


def test_unmodelled_custom_calls_counts_kernels_without_an_estimate():
    assert unmodelled_custom_calls(PROGRAM) == 0
    kernel = '  %k = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call"'
    view = '  %v = f32[8]{0} custom-call(%x), custom_call_target="ConcatBitcast"'
    order = '  %t = token[] custom-call(%x), custom_call_target="NopReturnToken", custom_call_has_side_effect=true'
    estimated = kernel + ', backend_config={"estimated_cycles":"3"}'
    assert unmodelled_custom_calls("\n".join((PROGRAM, kernel, view, order, estimated))) == 1
