"""`gcg k8s`: a run on Kubernetes, written from its run file, and checked against it.

sizing (memory of Pods) ─► render ─► kustomize ─► objects ─► agreement ─► check
"""
