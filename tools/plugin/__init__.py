"""The *Growth* tab of TensorBoard."""
