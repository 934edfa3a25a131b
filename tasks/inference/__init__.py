"""One public function per task: what the trained models do."""
