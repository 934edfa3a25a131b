"""A server for the tasks: the speech API of OpenAI, voices, and speech from speech, over HTTP and WebSocket."""
