"""Inputs of a training run: documents and chats as token ids, packed into batches."""
