"""Five applications of one diffusion core. Nothing is imported here; `DOMAINS` names them."""

DOMAINS: dict[str, str] = {
    "trajectory": "road trips on a real network: origin, destination, via points, closures; always legal",
    "bio": "DNA, protein and peptide design: hard rules always hold, rewards are judged by others",
    "music": "music that starts at once, follows controls and never clicks: block-wise flow, streamed live",
    "nas": "neural architectures: valid cells within hard limits, the best ones in few evaluations",
    "pde": "fields on irregular meshes: known physics, learned rest, exact boundaries, calibrated ensembles",
}
