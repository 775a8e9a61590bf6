"""What does not come out as wanted yet; see ``people_networks.py``."""

from __future__ import annotations

__all__ = ["COST_NOT_YET", "NOT_YET"]

NOT_YET: dict[str, str] = {
    "a_mapped_function": (
        "crash: GraphError: Sequential did not run on the example input of shape (2, 7, 4): Cannot"
    ),
    "contracted_with_a_bare_vector": (
        "crash: IndexError: tuple index out of range [bare.py:160 get_out_channels]"
    ),
    "contracted_with_a_bare_vector_by_einsum": (
        "crash: IndexError: tuple index out of range [bare.py:160 get_out_channels]"
    ),
    "attention_of_torch_with_a_bias_of_keys": (
        "crash: pruning by ratio: NotImplementedError: this attention is refused and never cut [at"
    ),
    "learned_queries": "wrong value: gated and cut differ by …",
    "routed_to_experts": "wrong value: gated and cut differ by …",
    "bare_table": "wrong value: gated and cut differ by …",
    "rounded_weights": "wrong value: gated and cut differ by …",
    "embedding_that_scales": "wrong value: gated and cut differ by …",
    "attention_by_batched_products": (
        "protected: attention.q: does not run (shape '[2, 7, 4, 6]' is invalid for input of size 1"
    ),
    "fused_causal_attention": (
        "protected: attention.q: all of its channels are coupled into one; attention.k: all of its"
    ),
    "one_head_of_keys_by_broadcasting": (
        "protected: attention.v: a product of two channel axes, in 'attention'"
    ),
    "one_projection_of_unequal_parts": (
        "protected: attention.qkv: channels are split into parts of different sizes, in 'attention"
    ),
    "rotated_as_complex_numbers": (
        "protected: attention.q: it would leave a layer without channels; attention.k: it would le"
    ),
    "pooled_by_a_learned_query": (
        "protected: attention.k: a product with a tensor that has no channels to match, in 'attent"
    ),
    "one_module_of_streams_of_many_widths": (
        "protected: 0: 'mean' in '1.centre' reads other channels each time that the module runs; 1"
    ),
    "rms_by_vector_norm_and_a_kept_scale": "protected: differ by …",
    "group_norm_by_views": "protected: differ by inf",
    "similarity_with_a_second_branch": (
        "protected: 'cosine_similarity' in '1' reads other channels each time that the module runs"
    ),
    "maxout": "protected: differ by inf",
    "mean_with_an_axis_for_numpy": (
        "protected: does not run (with gates: The size of tensor a (8) must match the size of tens"
    ),
    "learned_positions_resized": (
        "protected: does not run (The size of tensor a (5) must match the size of tensor b (8) at"
    ),
    "masked_frames_by_assignment": (
        "protected: does not run (shape mismatch: value tensor of shape [8] cannot be broadcast to"
    ),
    "learned_queries_from_a_table": (
        "protected: 1.attention.out_proj: '1.queries.weight' meets it in a way that has no rule"
    ),
    "codes_by_distance": (
        "protected: differ by …;'argmin' pools over channels outside a known norm, in '1'"
    ),
    "prototypes_by_similarity": (
        "protected: operation 'mm' could not be followed (ValueError: zip() argument 2 is shorter"
    ),
    "median_along_time": "protected: operation 'median' has no rule and may mix channels, in '1'",
    "sampled_on_a_grid": (
        "protected: operation 'grid_sampler_2d' has no rule and may mix channels, in '1'"
    ),
    "blended_experts": (
        "protected: 1.router: all of its channels are coupled into one; 1.experts.0: all of its ch"
    ),
    "long_convolution_by_spectra": (
        "protected: does not run (The size of tensor a (5) must match the size of tensor b (8) at"
    ),
    "a_learned_first_state": (
        "protected: 1.rnn: does not run (Expected hidden size (1, 2, 5), got [1, 2, 6])"
    ),
    "cells_in_a_loop": (
        "protected: 'lstm_cell' in '1.cell' reads other channels each time that the module runs"
    ),
    "cells_of_a_gru_in_a_loop": (
        "protected: 'gru_cell' in '1.cell' reads other channels each time that the module runs"
    ),
    "plain_cells_that_feed_themselves": (
        "protected: 0: 'rnn_tanh_cell' in '1.cell' reads other channels each time that the module"
    ),
    "cells_in_two_layers": (
        "protected: 'lstm_cell' in '1.cells.0' reads other channels each time that the module runs"
    ),
    "decoder_that_attends": (
        "protected: 1.encoder: differ by …; 1.cell.weight_ih: differ by …; 1.cell.weight_hh: diffe"
    ),
    "cell_of_linear_layers": (
        "protected: 1.x: does not run (The size of tensor a (5) must match the size of tensor b (6"
    ),
    "minimal_gated_unit": (
        "protected: 1.f: does not run (The size of tensor a (5) must match the size of tensor b (6"
    ),
    "mean_of_flattened_channels": (
        "protected: does not run (with gates: The size of tensor a (104) must match the size of te"
    ),
    "length_of_flattened_channels": (
        "protected: does not run (with gates: The size of tensor a (384) must match the size of te"
    ),
    "normalised_when_flattened": (
        "protected: does not run (with gates: The size of tensor a (384) must match the size of te"
    ),
    "softmax_of_places_and_channels": (
        "protected: does not run (with gates: The size of tensor a (104) must match the size of te"
    ),
    "softmax_in_groups": "protected: differ by …",
    "mean_of_stacked_streams": "protected: 1.a: differ by inf; 1.b: differ by inf",
    "similarity_with_bare_prototypes": (
        "protected: differ by … '1.prototypes (axis 0)no layer with weights reads its channels"
    ),
    "pooled_with_indices_and_back": (
        "protected: operation 'max_unpool2d' has no rule and may mix channels, in '1'"
    ),
    "channel_shuffle_layer": (
        "protected: does not run (Number of channels must be divisible by groups. Got 5 channels a"
    ),
    "heads_by_einsum": (
        "protected: a product with a weight that is computed in an unknown way, in '1'"
    ),
    "recurrent_layer_that_returns_its_output_only": (
        "protected: 1.weight_ih_l0: a product with a bare weight, in '1'; 1.weight_hh_l0: a produc"
    ),
    "attention_that_returns_its_output_only": (
        "protected: a product over channels, in '1'; its weight is shared with '1', which uses all"
    ),
    "autoencoder_that_turns_its_weight": (
        "protected: it meets the weights of a layer outside of it, '1.up.weight'; the model uses t"
    ),
    "halves_by_unflatten": "protected: 'prod' pools over channels outside a known norm, in '1'",
    "pairs_by_steps": "protected: channels are cut out by fixed positions, in '1'",
    "pairs_by_steps_and_back": "protected: channels are cut out by fixed positions, in '1'",
    "pairs_as_complex_numbers": "protected: it would leave a layer without channels",
    "a_branch_by_the_width": "reason: 0: differ by …",
    "a_weight_that_is_normalised_when_called": "reason: 0: differ by …",
    "cumulative_moments_by_sums_and_the_width": "reason: 0: differ by …",
    "functional_batch_norm_of_one_layer_with_the_statistics_of_another": (
        "reason: 0: '1.norm.running_mean' meets it in a way that has no rule"
    ),
    "log_softmax_over_channels": "reason: 0: all of its channels are coupled into one",
    "highest_channels_only": "reason: 0: all of its channels are coupled into one",
    "channels_in_order_of_size": "reason: 0: all of its channels are coupled into one",
    "a_tensor_that_is_no_buffer": (
        "reason: 0: does not run (The size of tensor a (5) must match the size of tensor b (8) at"
    ),
    "transform_of_both_axes": "reason: 0: all of its channels are coupled into one",
    "sum_by_the_count_of_elements": "reason: 0: differ by …",
    "number_of_the_highest_channel": "reason: 0: differ by …",
    "number_of_the_highest_channel_by_its_name": "reason: 0: differ by …",
    "number_of_the_lowest_channel": "reason: 0: differ by …",
    "a_class_embedded_by_one_hot": "reason: 1.score: differ by …",
    "distance_of_a_pair": "reason: 1.a: differ by …; 1.b: differ by …",
    "divergence_as_a_gate": (
        "reason: 1.a: all of its channels are coupled into one; 1.b: all of its channels are coupl"
    ),
    "entropy_as_a_gate": "reason: 1.a: differ by inf",
    "length_of_a_bare_gain": "reason: 0: differ by …",
    "mean_of_a_bare_gain": "reason: 0: differ by …",
    "softmax_of_a_bare_gain": "reason: 0: differ by …",
    "highest_of_a_bare_gain": "reason: 0: differ by …",
    "cumulated_bare_gain": "reason: 0: differ by …",
    "sorted_bare_gain": "reason: 0: differ by …",
    "size_of_a_bare_gain": "reason: 0: differ by …",
    "bare_matrix_by_its_highest_entry": "reason: 0: differ by …; 1.w: differ by …",
    "bare_matrix_by_its_length": "reason: 0: differ by …; 1.w: differ by …",
    "bare_matrix_by_the_highest_entry_of_each_row": "reason: 0: differ by …",
    "rounded_to_levels_of_each_row": "reason: 0: differ by …",
    "ternary_weights": "reason: 0: differ by …; 1.w: differ by …",
    "a_kernel_that_sums_to_one_over_its_inputs": "reason: 0: differ by …",
    "classifier_viewed_by_a_literal_length": (
        "reason: b: does not run (shape '[-1, 40]' is invalid for input of size 24)"
    ),
    "weights_pruned_one_by_one": (
        "reason: 0: does not run (cannot assign 'torch.DoubleTensor' as parameter 'weight' (torch."
    ),
    "standardised_by_hand": "reason: 0: differ by …",
    "embedding_that_scales_by_its_width": "reason: 0: differ by …",
    "numbers_in_a_namespace": (
        "reason: 0: does not run (shape '[2, 7, 8]' is invalid for input of size 70)"
    ),
    "numbers_in_a_dataclass": (
        "reason: 0: does not run (shape '[-1, 7, 8]' is invalid for input of size 70)"
    ),
    "numbers_in_a_dictionary": (
        "reason: 0: does not run (shape '[-1, 7, 8]' is invalid for input of size 70)"
    ),
    "a_number_in_the_code": (
        "reason: 0: does not run (shape '[-1, 7, 8]' is invalid for input of size 70)"
    ),
    "sine_positions_of_the_present_width": "reason: 0: differ by …",
    "scaled_by_the_present_width": "reason: 0: differ by …",
    "a_ramp_over_the_channels": "reason: 0: differ by …",
    "channels_rolled": "reason: 0: all of its channels are coupled into one",
}
"""Cases with what was seen: ``kind of failure: what``."""

COST_NOT_YET: frozenset[str] = frozenset(
    {
        "state_space_model",
    }
)
"""Cases whose parameters the gates do not predict."""
