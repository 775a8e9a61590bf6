"""What does not come out as wanted yet; see ``people_networks.py``."""

from __future__ import annotations

__all__ = ["COST_NOT_YET", "NOT_YET"]

NOT_YET: dict[str, str] = {
    "a_mapped_function": (
        "protected: GraphError: Sequential runs on the example, but its channels cannot be foll"
    ),
    "contracted_with_a_bare_vector": (
        "protected: '0', '2' (40 parameters): a product with a tensor that has no channels to m"
    ),
    "contracted_with_a_bare_vector_by_einsum": (
        "protected: '0', '2' (40 parameters): a product with a tensor that has no channels to m"
    ),
    "attention_by_batched_products": (
        "protected: in part, attention.q: the model does not run without it (shape '[2, 7, 4, 6"
    ),
    "one_head_of_keys_by_broadcasting": (
        "protected: in part, attention.v: a product of two channel axes, in 'attention' (people"
    ),
    "one_projection_of_unequal_parts": (
        "protected: in part, attention.qkv: channels are split into parts of different sizes, i"
    ),
    "rotated_as_complex_numbers": (
        "protected: in part, attention.q: it would leave a layer without channels; attention.k:"
    ),
    "pooled_by_a_learned_query": (
        "protected: in part, attention.k: a product with a tensor that has no channels to match"
    ),
    "one_module_of_streams_of_many_widths": (
        "protected: in part, 0: 'mean' in '1.centre' reads other channels each time that the mo"
    ),
    "rms_by_vector_norm_and_a_kept_scale": (
        "protected: '0', '2' (40 parameters): the pruned model is not the gated one: gated and "
    ),
    "group_norm_by_views": (
        "protected: '2' (146 parameters): it is an output of the model   '0', '2' (80 parameter"
    ),
    "learned_positions_resized": (
        "protected: '2' (146 parameters): it is an output of the model   '1' (128 parameters): "
    ),
    "masked_frames_by_assignment": (
        "protected: '0', '2' (40 parameters): the model does not run without it (shape mismatch"
    ),
    "learned_queries_from_a_table": (
        "protected: in part, 1.attention.out_proj: '1.queries.weight' meets it in a way that ha"
    ),
    "codes_by_distance": (
        "protected: '0', '1.codes', '2' (40 parameters): 'sum' pools over the entries of '1.cod"
    ),
    "prototypes_by_similarity": (
        "protected: '0', '1.prototypes' (80 parameters): operation 'mm' could not be followed ("
    ),
    "median_along_time": (
        "protected: '0', '2' (40 parameters): operation 'median' has no rule and may mix channe"
    ),
    "sampled_on_a_grid": (
        "protected: '0', '1.offset' (226 parameters): operation 'grid_sampler_2d' has no rule a"
    ),
    "blended_experts": (
        "protected: in part, 1.router: all of its channels are coupled into one; 1.experts.0: a"
    ),
    "long_convolution_by_spectra": (
        "protected: '1' (256 parameters): there is no rule for Part   '2' (50 parameters): it i"
    ),
    "a_learned_first_state": (
        "protected: in part, 1.rnn: the model does not run without it (Expected hidden size (1,"
    ),
    "decoder_that_attends": (
        "protected: in part, 1.encoder: the pruned model is not the gated one: gated and cut di"
    ),
    "cell_of_linear_layers": (
        "protected: in part, 1.x: the model does not run without it (The size of tensor a (4) m"
    ),
    "minimal_gated_unit": (
        "protected: in part, 1.f: the model does not run without it (The size of tensor a (4) m"
    ),
    "mean_of_flattened_channels": (
        "protected: '2' (50 parameters): it is an output of the model   '0', '2' (32 parameters"
    ),
    "length_of_flattened_channels": (
        "protected: '2' (146 parameters): it is an output of the model   '0', '2' (80 parameter"
    ),
    "normalised_when_flattened": (
        "protected: '2' (146 parameters): it is an output of the model   '0', '2' (80 parameter"
    ),
    "softmax_of_places_and_channels": (
        "protected: '2' (50 parameters): it is an output of the model   '0', '2' (32 parameters"
    ),
    "softmax_in_groups": (
        "protected: '0', '2' (40 parameters): the pruned model is not the gated one: gated and "
    ),
    "similarity_with_bare_prototypes": (
        "protected: '0' (40 parameters): 'linalg_vector_norm' pools over the entries of '1.prot"
    ),
    "pooled_with_indices_and_back": (
        "protected: '0', '1.mix' (152 parameters): operation 'max_unpool2d' has no rule and may"
    ),
    "heads_by_einsum": (
        "protected: '1' (128 parameters): there is no rule for Part   '0' (40 parameters): a pr"
    ),
    "recurrent_layer_that_returns_its_output_only": (
        "protected: in part, 1.weight_ih_l0: a product with a bare weight, in '1' (people_weigh"
    ),
    "attention_that_returns_its_output_only": (
        "protected: '1.in_proj_weight', '1.out_proj' (192 parameters): a product over channels,"
    ),
    "autoencoder_that_turns_its_weight": (
        "protected: '1.up', '1.back', '2' (116 parameters): it meets the weights of a layer out"
    ),
    "halves_by_unflatten": (
        "protected: '0', '2' (40 parameters): 'prod' pools over channels outside a known norm, "
    ),
    "pairs_as_complex_numbers": (
        "protected: '0', '2' (40 parameters): it would leave a layer without channels   '2' (27"
    ),
    "a_branch_by_the_width": (
        "reason: 0: the pruned model is not the gated one: gated and cut differ by … of the lar"
    ),
    "cumulative_moments_by_sums_and_the_width": (
        "reason: 0: the pruned model is not the gated one: gated and cut differ by … of the lar"
    ),
    "functional_batch_norm_of_one_layer_with_the_statistics_of_another": (
        "reason: 0: '1.norm.running_mean' meets it in a way that has no rule"
    ),
    "log_softmax_over_channels": ("reason: 0: all of its channels are coupled into one"),
    "highest_channels_only": ("reason: 0: all of its channels are coupled into one"),
    "channels_in_order_of_size": ("reason: 0: all of its channels are coupled into one"),
    "transform_of_both_axes": ("reason: 0: all of its channels are coupled into one"),
    "sum_by_the_count_of_elements": (
        "reason: 0: the pruned model is not the gated one: gated and cut differ by … of the lar"
    ),
    "divergence_as_a_gate": (
        "reason: 1.a: all of its channels are coupled into one; 1.b: all of its channels are co"
    ),
    "size_of_a_bare_gain": (
        "reason: 0: the pruned model is not the gated one: gated and cut differ by … of the lar"
    ),
    "weights_pruned_one_by_one": (
        "reason: 0: the model does not run without it (cannot assign 'torch.DoubleTensor' as pa"
    ),
    "sine_positions_of_the_present_width": (
        "reason: 0: the pruned model is not the gated one: gated and cut differ by … of the lar"
    ),
    "scaled_by_the_present_width": (
        "reason: 0: the pruned model is not the gated one: gated and cut differ by … of the lar"
    ),
    "a_ramp_over_the_channels": (
        "reason: 0: the pruned model is not the gated one: gated and cut differ by … of the lar"
    ),
    "channels_rolled": ("reason: 0: all of its channels are coupled into one"),
    "state_space_model": (
        "protected: in part, 1.c (axis 1): 'sum' pools over the entries of '1.c', in '1' (peopl"
    ),
}
"""Cases with what was seen: ``kind of failure: what``."""

COST_NOT_YET: frozenset[str] = frozenset()
"""Cases whose parameters the gates do not predict."""
