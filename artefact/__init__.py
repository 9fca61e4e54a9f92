"""The contract between compressor and serving: what an artefact holds, how it is read, checked and run."""
