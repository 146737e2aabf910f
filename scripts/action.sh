#!/bin/bash
# The step "Verify" of action.yml: weightkit verify with what the workflow says, a table in its summary, a note at each bad file.
# Inputs come as environment variables, so that nothing of them is read as shell.
set -u
words=(verify "$VERIFY_PATH")
for name in ${VERIFY_RELEASE:-}; do
    words+=(--release "$name")
done
while IFS= read -r list; do
    [ -z "$list" ] || words+=(--checksums "$list")
done <<<"${VERIFY_CHECKSUMS:-}"
[ "${VERIFY_FAIL_ON_MISSING:-true}" = true ] || words+=(--no-fail-on-missing)
[ "${VERIFY_FAIL_ON_EXTRA:-false}" = false ] || words+=(--fail-on-extra)
[ -z "${VERIFY_JUNIT:-}" ] || words+=(--junit "$VERIFY_JUNIT")

output=$("${WEIGHTKIT:-weightkit}" "${words[@]}")
status=$?
printf '%s\n' "$output"
while IFS= read -r line; do
    case $line in
    "FAILED "* | "missing "*)
        printf '::error title=weightkit verify::%s\n' "${line//'%'/%25}"
        ;;
    esac
done <<<"$output"
if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then
    {
        printf '### weightkit verify: %s\n\n```\n' "$([ "$status" = 0 ] && echo ok || echo FAILED)"
        printf '%s\n' "$output"
        printf '```\n'
    } >>"$GITHUB_STEP_SUMMARY"
fi
exit "$status"
