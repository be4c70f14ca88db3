"""Every use of a private Keras attribute, in one room: a file a subject.

Keras gives no public way to read a functional graph or to change a built layer. When a new Keras
release moves something, this is the place to mend. Written for Keras 3.13 to 3.15. Code outside
calls `_keras.NAME`; a test keeps private attributes of Keras in here.
"""

from keras.src.applications.convnext import LayerScale, StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer
from keras.src.backend.common.stateless_scope import StatelessScope
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell

from keras_grow._keras.fit import (
    drop_compiled,
    is_plain_descent,
    iterations,
    learning_rate,
    logs_running_means,
)
from keras_grow._keras.graph import (
    all_nodes,
    attribute_names,
    call_arguments,
    call_count,
    flat_inputs,
    flat_outputs,
    functional_class,
    functional_of,
    input_layers,
    input_names,
    input_structure,
    input_tensors,
    is_model,
    maker,
    maker_node,
    node_arguments,
    nodes_in_order,
    pack_outputs,
    set_call_count,
    standardize_inputs,
    sublayers,
    takes_training,
    traced,
)
from keras_grow._keras.hub import (
    f_net_hidden,
    transformer_hidden,
)
from keras_grow._keras.layers import (
    all_states,
    attention_axes,
    cells_of,
    derived_kernel,
    has_own_activation,
    is_conv_cell,
    kernel_of,
    normalized_axes,
    projections,
    refresh_group_query_attention,
    refresh_multi_head_attention,
    refresh_normalization,
    refresh_projection,
    refresh_recurrent,
    refresh_spectral,
    scalar_statistics,
    set_input_size,
    state_variables,
    table_of,
)
from keras_grow._keras.living import (
    Living,
    early_stoppings,
)
from keras_grow._keras.nodes import (
    argument,
    constant_of,
    holds_variable,
    op_kind,
    pad_constant,
    pad_width,
    record_reshape,
    set_argument,
    set_constant,
    set_constructor_argument,
)
from keras_grow._keras.optimizers import (
    handed_to,
    hands_out,
    inner_optimizers,
    list_handed_out,
    list_trained,
    nadam_product,
    optimizer_keys,
    optimizer_restorer,
    optimizer_slots,
    optimizer_variables,
    rate_of,
    set_optimizer_keys,
    state_besides,
    transplant,
)
from keras_grow._keras.rewiring import (
    forget_call,
    layers_of,
    remap,
    replace_activation,
    set_layers,
    swap_input,
    swap_output,
)
from keras_grow._keras.state import (
    assets_hook,
    auto_config,
    bare_copy,
    build_shapes,
    compile_arguments,
    compute_loss,
    forget_nodes,
    mask_of,
    own_config,
    pure_call,
    reinitialize,
    remove_instance_call,
    restore_snapshot,
    restore_variable,
    run_symbolically,
    seed_states,
    set_assets_hook,
    set_batch_shape,
    set_build_shapes,
    set_shape,
    set_value,
    snapshot,
    state_of,
    track_variables,
    unsafe_scope,
    value_of,
    variable_state,
)
