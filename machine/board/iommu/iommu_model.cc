#include "machine/board/iommu/iommu_model.h"

#include <algorithm>

#include "machine/board/iommu/model_impl.h"
#include "machine/board/iommu/registers.h"
#include "machine/board/iommu/tables.h"

namespace perdure::board {

void InFlight::release() {
  IommuModel::Impl& impl = *std::exchange(model_, nullptr)->impl_;
  IommuModel::Impl::Scope scope(impl);
  impl.in_flight_.end(epoch_, access_);
  impl.settle_locked();  // a wait may have waited for just this
}

IommuModel::Impl::Impl(const IommuModelConfig& config, PhysMemory& memory, IommuEnvironment& environment,
                       WriteBackShadow* shadow)
    : config_(config),
      memory_(memory),
      environment_(environment),
      checker_(environment),
      caches_(config.policy, config.seed),
      dids_(checker_),
      reader_(memory, shadow, checker_),
      walker_(config_, reader_, caches_, dids_, checker_),
      faults_(config_, checker_, outbox_),
      interrupts_(config_, reader_, checker_),
      flusher_(config_, caches_, dids_, in_flight_, checker_),
      queue_(config_, memory, reader_, flusher_, faults_, interrupts_, checker_, outbox_),
      delays_(~config.seed) {}

Answer IommuModel::Impl::resolve_locked(const Request& request) {
  if (request.iova - table::kInterruptWindow < table::kInterruptWindowBytes) {
    // A write there is a message; nothing else may go there, translated or not.
    if (request.access != Access::Write) return {};
    const u64 room = table::kInterruptWindow + table::kInterruptWindowBytes - request.iova;
    return {Verdict::Interrupt, 0, false, request.iova, std::min(request.length, room)};
  }
  Answer answer;
  if ((status_ & reg::gcmd::kTe) == 0) {
    const u64 to_page_end = kPageSize - request.iova % kPageSize;
    answer = {Verdict::Untranslated, 0, false, request.iova, std::min(request.length, to_page_end)};
  } else {
    answer = walker_.resolve(root_, request);
  }
  // Protected memory is out of reach for what no page table has let through.
  if ((answer.verdict == Verdict::Untranslated || answer.verdict == Verdict::PassThrough) &&
      in_protected_memory(answer.phys, answer.length)) {
    return {};
  }
  return answer;
}

InterruptMessage IommuModel::Impl::interrupt_locked(u16 source, u64 address, u32 data) {
  const bool enabled = (status_ & reg::gcmd::kIre) != 0;
  const bool compatible = (status_ & reg::gcmd::kCfi) != 0 || config_.quirks.compatible_messages_pass;
  const InterruptOutcome outcome = interrupts_.resolve(source, address, data, enabled, compatible);
  if (!outcome.passes) {
    // Of an interrupt fault the record's address says the index of the entry (hardware.md §1, "FRCD").
    const bool quiet = outcome.quiet || config_.quirks.interrupts_unrecorded;
    const bool recorded = !quiet && faults_.record(source, u64{outcome.index} << 48, Access::Write, outcome.fault);
    ++(recorded ? faults_recorded_ : faults_dropped_);
  }
  return {outcome.passes, outcome.fault, outcome.address, outcome.data};
}

bool IommuModel::Impl::in_protected_memory(u64 phys, u64 length) const {
  if ((pmen_ & reg::pmen::kPrs) == 0) return false;
  constexpr u64 kGrain = kHugePageSize - 1;
  const auto overlaps = [&](u64 base, u64 limit) {
    return base <= limit && ranges_overlap(phys, length, base, (limit | kGrain) - base + 1);
  };
  return (config_.plmr && overlaps(plm_base_, plm_limit_)) || (config_.phmr && overlaps(phm_base_, phm_limit_));
}

bool IommuModel::Impl::idle_locked() const {
  return !gcmd_.pending && !context_flush_.pending && !iotlb_flush_.pending && !queue_.pending();
}

void IommuModel::Impl::step_locked() {
  if (due(gcmd_)) finish_gcmd();
  if (due(context_flush_)) finish_context_flush();
  if (due(iotlb_flush_)) finish_iotlb_flush();
  if (queue_.pending()) {
    if (!queue_turn_.pending) start(queue_turn_);
    if (due(queue_turn_)) {
      queue_turn_.pending = false;
      queue_.advance(scalable_tables());
    }
  }
}

void IommuModel::Impl::settle_locked() {
  if (!immediate()) return;
  if (gcmd_.pending) finish_gcmd();
  if (context_flush_.pending) finish_context_flush();
  if (iotlb_flush_.pending) finish_iotlb_flush();
  while (queue_.advance(scalable_tables())) {
  }
}

IommuModel::IommuModel(const IommuModelConfig& config, PhysMemory& memory, IommuEnvironment& environment,
                       WriteBackShadow* shadow)
    : impl_(std::make_unique<Impl>(config, memory, environment, shadow)) {}

IommuModel::~IommuModel() = default;

const IommuModelConfig& IommuModel::config() const {
  return impl_->config_;
}

u64 IommuModel::read(u64 offset, unsigned width) {
  Impl& impl = *impl_;
  Impl::Scope scope(impl);
  if (impl.config_.step_on_access) impl.step_locked();
  return impl.read_locked(offset, width);
}

void IommuModel::write(u64 offset, unsigned width, u64 value) {
  Impl& impl = *impl_;
  Impl::Scope scope(impl);
  impl.write_locked(offset, width, value);
  impl.settle_locked();
}

Translation IommuModel::translate(u16 source, u64 iova, u64 length, Access access, RequestType type) {
  Impl& impl = *impl_;
  Impl::Scope scope(impl);
  if (impl.config_.step_on_access) impl.step_locked();
  const Answer answer = impl.resolve_locked({source, iova, length, access, type, false});

  Translation out;
  out.verdict = answer.verdict;
  out.fault = answer.fault;
  out.phys = answer.phys;
  out.length = answer.length;
  if (!out.ok()) {
    ++impl.blocked_;
    if (answer.fault != 0) {
      out.recorded = !answer.quiet && impl.faults_.record(source, iova, access, answer.fault);
      ++(out.recorded ? impl.faults_recorded_ : impl.faults_dropped_);
    }
    return out;
  }
  if (answer.verdict == Verdict::Untranslated) {
    ++impl.untranslated_;
    if (!impl.gaps_.empty()) ++impl.gaps_.back().transfers;  // the last one is open: translation is off
  } else {
    ++impl.translations_;
  }
  out.in_flight = InFlight(this, impl.in_flight_.begin(access), access);
  return out;
}

InterruptMessage IommuModel::interrupt(u16 source, u64 address, u32 data) {
  Impl& impl = *impl_;
  Impl::Scope scope(impl);
  if (impl.config_.step_on_access) impl.step_locked();
  return impl.interrupt_locked(source, address, data);
}

Translation IommuModel::probe(u16 source, u64 iova, u64 length, Access access) const {
  Impl& impl = *impl_;
  Impl::Scope scope(impl);
  const Answer answer = impl.resolve_locked({source, iova, length, access, RequestType::Untranslated, true});
  Translation out;
  out.verdict = answer.verdict;
  out.fault = answer.fault;
  out.phys = answer.phys;
  out.length = answer.length;
  return out;
}

bool IommuModel::step() {
  Impl& impl = *impl_;
  Impl::Scope scope(impl);
  impl.step_locked();
  return !impl.idle_locked();
}

bool IommuModel::idle() const {
  Impl::Scope scope(*impl_);
  return impl_->idle_locked();
}

std::vector<Violation> IommuModel::violations() const {
  Impl::Scope scope(*impl_);
  return impl_->checker_.list();
}

u64 IommuModel::violation_count() const {
  Impl::Scope scope(*impl_);
  return impl_->checker_.count();
}

u64 IommuModel::violation_count(ViolationKind kind) const {
  Impl::Scope scope(*impl_);
  return impl_->checker_.count(kind);
}

void IommuModel::clear_violations() {
  Impl::Scope scope(*impl_);
  impl_->checker_.clear();
}

std::vector<DmaGap> IommuModel::gaps() const {
  Impl::Scope scope(*impl_);
  return impl_->gaps_;
}

IommuStatistics IommuModel::statistics() const {
  Impl& impl = *impl_;
  Impl::Scope scope(impl);
  IommuStatistics s;
  s.translations = impl.translations_;
  s.untranslated = impl.untranslated_;
  s.blocked = impl.blocked_;
  s.faults_recorded = impl.faults_recorded_;
  s.faults_dropped = impl.faults_dropped_;
  s.iotlb_hits = impl.walker_.hits();
  s.iotlb_misses = impl.walker_.misses();
  s.table_reads = impl.reader_.reads();
  s.descriptors = impl.queue_.descriptors();
  s.context_entries = impl.caches_.context_count();
  s.iotlb_entries = impl.caches_.page_count();
  s.structure_entries = impl.caches_.structure_count();
  s.interrupts_remapped = impl.interrupts_.remapped();
  s.interrupts_blocked = impl.interrupts_.blocked();
  s.interrupt_entries = impl.interrupts_.cached();
  return s;
}

void IommuModel::drop_caches() {
  Impl& impl = *impl_;
  Impl::Scope scope(impl);
  impl.caches_.drop_all();
  impl.dids_.drop_all();
  impl.interrupts_.drop_all();
}

void IommuModel::set_policy(CachePolicy policy, u64 seed) {
  Impl::Scope scope(*impl_);
  impl_->caches_.set_policy(policy, seed);
  impl_->interrupts_.set_policy(policy, seed);
}

void IommuModel::inject_queue_error(u8 code) {
  Impl::Scope scope(*impl_);
  impl_->queue_.inject_error(code);
}

void IommuModel::inject_device_tlb_timeout(u16 source) {
  Impl::Scope scope(*impl_);
  impl_->queue_.inject_device_tlb_timeout(source);
}

std::vector<std::byte> IommuModel::save() const {
  Impl::Scope scope(*impl_);
  return impl_->save_locked();
}

Result<void> IommuModel::restore(std::span<const std::byte> bytes) {
  Impl& impl = *impl_;
  Impl::Scope scope(impl);
  const std::vector<std::byte> before = impl.save_locked();
  if (impl.restore_locked(bytes)) return {};
  impl.restore_locked(before);
  return fail(Errno::Einval);
}

}  // namespace perdure::board
