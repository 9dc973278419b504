"""Fetching checkpoints from the hubs: listing, transfer, verification. Only `hubs` knows the hubs' libraries.

cli  ->  transfer  ->  hubs (modelscope_hub, huggingface_hub)
             └──────>  files (what is wanted, what is there), manifest (what was promised)
"""
