"""The page as a Hugging Face Space: this folder is the whole Space. FOCALLM_MODEL names a model other than mini."""

import os

from focallm.tasks.serve.page import build_page, page_options
from focallm.tasks.serve.page_tasks import load_page_models

demo = build_page(load_page_models(os.environ.get("FOCALLM_MODEL", "mini")))

if __name__ == "__main__":
    demo.launch(**page_options())
