"""The web application over run folders: pages (`mentorkd view`) and an OpenAI-compatible endpoint (`mentorkd serve`)."""
