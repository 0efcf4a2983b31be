"""What a model costs, from its configuration alone: tensors, operations, cache bytes, beside DeepSeek-V3.2."""
