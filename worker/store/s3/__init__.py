"""A bucket as the store. Needs the extra `s3`; imported only where NPT_STORE_URL names one."""
