-- wrk script: the results as one line of JSON. Environment: with PACE_MS each connection rests that many
-- milliseconds on average between an answer and its next request; with UPLOAD_BYTES each request is a PUT of as many.
local pace = tonumber(os.getenv("PACE_MS") or "")
local upload = tonumber(os.getenv("UPLOAD_BYTES") or "")

if pace then
   function delay()
      return math.random(0, 2 * pace)
   end
end

if upload then
   wrk.method = "PUT"
   wrk.body = string.rep("x", upload)
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      'RESULT {"requests": %d, "seconds": %f, "bytes": %d, "p50_us": %d, "p99_us": %d, "mean_us": %d, ' ..
      '"errors": %d, "failures": "connect %d, read %d, write %d, status %d, timeout %d"}\n',
      summary.requests, summary.duration / 1e6, summary.bytes, latency:percentile(50), latency:percentile(99), latency.mean,
      errors.connect + errors.read + errors.write + errors.status + errors.timeout,
      errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
