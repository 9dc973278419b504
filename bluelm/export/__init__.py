"""`python -m bluelm.export SRC DST`: a checkpoint as the standard Llama folder that other programs read.

cli  ->  folder (whole or not at all)
 └────>  weights (shards), config (config.json, generation_config.json), tokenizer -> fast (tokenizer.json)
"""
