"""SAM's decoder behind small image encoders: MobileSAM, EdgeSAM, RepViT-SAM."""
