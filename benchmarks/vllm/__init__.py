"""Dense against subnet, our model class against vLLM's own, and drafting: served by vLLM, interleaved."""
