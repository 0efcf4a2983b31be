"""What a training run reads: documents and chats as token ids, packed into batches."""
