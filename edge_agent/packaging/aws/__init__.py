"""Components on their way to AWS: uploaded, created, deployed; needs boto3."""
