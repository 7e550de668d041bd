// R60-R65: the records that cross the jump and the two ioctls of Perdure's own, as a reader of another build sees them.
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "core/abi/iommu.h"
#include "core/abi/iommufd.h"
#include "core/abi/table_arena.h"
#include "core/abi/vfio_pci.h"

namespace perdure::abi {
namespace {

struct Format {
  std::string name;
  u32 version;
  const Schema* schema;
};

std::vector<Format> all() {
  std::vector<Format> formats;
  const auto add = [&](u32 version, const Schema& s) {
    formats.push_back({std::string(s.name) + " v" + std::to_string(version), version, &s});
  };
  for (u32 v = kIommuReadMin; v <= kIommuReadMax; ++v) {
    for (const auto kind :
         {IommuRecordKind::Unit, IommuRecordKind::Domain, IommuRecordKind::Attachment, IommuRecordKind::Device}) {
      add(v, iommu_schema(kind, v));
    }
  }
  for (u32 v = kIommufdReadMin; v <= kIommufdReadMax; ++v) add(v, iommufd_schema(IommufdRecordKind::Area, v));
  for (u32 v = kVfioPciReadMin; v <= kVfioPciReadMax; ++v) add(v, vfio_pci_schema(v));
  for (const Schema* s : {&kIommuHeaderSchema, &kIommuBlockSchema, &kIommufdHeaderSchema, &kIommufdBlockSchema,
                          &kIommufdHwptSchema, &kTableArenaPageSchema, &kTableArenaChunkSchema}) {
    add(s->version, *s);
  }
  return formats;
}

const FieldDef* field(const Schema& s, std::string_view name) {
  for (const FieldDef& f : s.fields) {
    if (f.name == name) return &f;
  }
  return nullptr;
}

// The series once had a header of 9 bytes and a pointer at an odd offset (§8.3-16).
TEST(Layout, RecordsAreAlignedAndWithoutHoles) {
  for (const Format& f : all()) {
    SCOPED_TRACE(f.name);
    EXPECT_TRUE(gapless(*f.schema));
    EXPECT_EQ(f.schema->size % 8, 0u);
    for (const FieldDef& d : f.schema->fields) {
      if (d.kind == FieldKind::Bytes || d.kind == FieldKind::Text || d.kind == FieldKind::Padding) continue;
      ASSERT_TRUE(d.size == 1 || d.size == 2 || d.size == 4 || d.size == 8) << d.name;
      EXPECT_EQ(d.offset % d.size, 0) << d.name;
    }
  }
}

// A reader of one version finds every field of the former where it was: nothing moves, nothing changes its meaning.
TEST(Layout, VersionTwoIsVersionOneAndMore) {
  std::vector<std::pair<const Schema*, const Schema*>> pairs;
  for (const auto kind :
       {IommuRecordKind::Unit, IommuRecordKind::Domain, IommuRecordKind::Attachment, IommuRecordKind::Device}) {
    pairs.emplace_back(&iommu_schema(kind, 1), &iommu_schema(kind, 2));
  }
  pairs.emplace_back(&iommufd_schema(IommufdRecordKind::Area, 1), &iommufd_schema(IommufdRecordKind::Area, 2));
  pairs.emplace_back(&vfio_pci_schema(1), &vfio_pci_schema(2));
  u32 longer = 0;
  for (const auto& [one, two] : pairs) {
    SCOPED_TRACE(one->name);
    EXPECT_LE(one->size, two->size);
    longer += one->size < two->size ? 1 : 0;
    ASSERT_LE(one->fields.size(), two->fields.size());
    for (usize i = 0; i < one->fields.size(); ++i) {
      const FieldDef &a = one->fields[i], &b = two->fields[i];
      EXPECT_TRUE(a.name == b.name && a.offset == b.offset && a.size == b.size && a.kind == b.kind) << a.name;
    }
  }
  EXPECT_GE(longer, 3u) << "each of the three formats has a version 2 of its own";
}

TEST(Layout, TokensAre64BitsWide) {
  const std::pair<const Schema*, const char*> tokens[] = {{&iommu_schema(IommuRecordKind::Device, 1), "owner_token"},
                                                          {&kIommufdHwptSchema, "token"},
                                                          {&iommufd_schema(IommufdRecordKind::Area, 1), "memory_token"},
                                                          {&vfio_pci_schema(1), "iommufd_token"}};
  for (const auto& [schema, name] : tokens) {
    SCOPED_TRACE(name);
    const FieldDef* f = field(*schema, name);
    ASSERT_NE(f, nullptr);
    EXPECT_EQ(f->size, 8);
    EXPECT_EQ(f->offset % 8, 0);
    EXPECT_EQ(f->max, ~u64{0}) << "a program may choose any";
  }
}

TEST(Layout, EveryFieldSaysWhatItMeans) {
  for (const Format& f : all()) {
    std::set<std::string_view> names;
    for (const FieldDef& d : f.schema->fields) {
      EXPECT_TRUE(names.insert(d.name).second) << f.name << " has " << d.name << " twice";
      // A checksum or a version says it by its kind, an element of an array by the first one.
      const bool element = d.name.find('[') != d.name.npos && !d.name.ends_with("[0]");
      const bool plain =
          d.kind == FieldKind::Checksum || d.kind == FieldKind::Version || d.kind == FieldKind::Padding || element;
      EXPECT_TRUE(plain || !d.meaning.empty()) << f.name << ": " << d.name;
    }
  }
}

// Layouts are told apart by name and version; none of these is a name that Linux's series uses (§8.3-18).
TEST(Layout, NamesAreOurOwn) {
  for (const std::string_view name : {kIommuCompatible, kIommufdCompatible, kVfioPciCompatible}) {
    EXPECT_TRUE(name.starts_with("perdure-")) << name;
  }
  EXPECT_TRUE((std::set<std::string_view>{kIommuCompatible, kIommufdCompatible, kVfioPciCompatible}).size() == 3);
}

}  // namespace
}  // namespace perdure::abi
