# Two hosts and their client: Debian with QEMU and vmferry, and the guest of the demo. `docker compose up` builds it.
#
# A machine that reaches its package sources in a way of its own says how by build arguments. They are used in stages that
# are thrown away: neither the image nor its history knows them.
#   DEBIAN_MIRROR                      the Debian archive, as in sources.list
#   CA_CERTIFICATES                    more authorities to trust, as PEM
#   PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_TRUSTED_HOST   as pip knows them

FROM debian:trixie-slim AS sources
ARG DEBIAN_MIRROR=
ARG CA_CERTIFICATES=
RUN set -eu; \
    cp -a /etc/apt /root/apt; \
    if [ -n "$DEBIAN_MIRROR" ]; then \
        rm -f /etc/apt/sources.list.d/*; echo "deb $DEBIAN_MIRROR trixie main" >/etc/apt/sources.list; \
    fi; \
    if [ -n "$CA_CERTIFICATES" ]; then \
        echo "$CA_CERTIFICATES" >/root/authorities.pem; \
        echo 'Acquire::https::CAInfo "/root/authorities.pem";' >/etc/apt/apt.conf.d/90authorities; \
    fi; \
    apt-get update -qq

FROM sources AS system
RUN DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    python3 qemu-system-x86 qemu-utils tini

FROM system AS vmferry
RUN DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    ca-certificates gcc libc6-dev python3-venv
WORKDIR /build
COPY tests/support tests/support
RUN PYTHONPATH=tests python3 -m support.guest.build /usr/share/vmferry-demo
ARG PIP_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=
ARG PIP_TRUSTED_HOST=
COPY pyproject.toml constraints.txt README.md ./
COPY src src
RUN set -eu; \
    if [ -f /root/authorities.pem ]; then cp /root/authorities.pem /usr/local/share/ca-certificates/build.crt; fi; \
    update-ca-certificates >/dev/null; \
    export PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1; \
    python3 -m venv /opt/vmferry; \
    /opt/vmferry/bin/pip install --quiet -c constraints.txt '.[daemon]'

FROM system AS clean
RUN rm -rf /etc/apt /root/authorities.pem /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb \
        /var/log/apt /var/log/*.log; \
    mv /root/apt /etc/apt

FROM scratch
COPY --from=clean / /
COPY --from=vmferry /usr/share/vmferry-demo /usr/share/vmferry-demo
COPY --from=vmferry /opt/vmferry /opt/vmferry
COPY src/demo/vmferry_demo/vmferryd.toml /etc/vmferry/vmferryd.toml
ENV PATH=/opt/vmferry/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENTRYPOINT ["/usr/bin/tini", "-g", "--"]
CMD ["vmferryd", "--config", "/etc/vmferry/vmferryd.toml"]
