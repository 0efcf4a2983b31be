"""The cost of a model, from its configuration alone: tensors, operations, cache bytes, beside DeepSeek-V3.2."""
