"""The other codecs of the FocalCodec paper, each as an adapter with the methods of `tokenizer.codec.Codec`.

`auto.load_codec` imports the module of a codec when it is needed. Import a class from its module: `codecs.bigcodec`,
`dac`, `encodec`, `mimi`, `semanticodec`, `speechtokenizer`, `stable_codec`, `ts3_codec`, `wavlm_km`, `wavtokenizer` and
`xcodec2` (with NeuCodec).
"""
