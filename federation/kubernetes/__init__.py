"""One Kubernetes API server as a client sees it: kubeconfig, credentials, session, reflector. It knows no member."""
